"""Proposals and detections on disk: .npz files without pickle, and the older tools' pickles, read safely.

A proposal file holds N images: `boxes` (sum n_i, 4) float32 x1 y1 x2 y2 in pixels of the original image,
`scores` (sum n_i,) if known, `counts` (N,). A detection file holds `rows` (M, 5) x1 y1 x2 y2 score and
`counts` (K, N).
"""

import glob
import logging
import os
import pickle

import numpy as np

from utils import safe_pickle
from utils.files import atomic_path, load_npz, pack, save_npz, unpack

log = logging.getLogger(__name__)


def proposal_file(output_dir, net_name):
    """Where the proposals of a net for an imdb with that output folder lie."""
    return os.path.join(output_dir, f'{net_name}_rpn_proposals.npz')


def newest_proposals(output_dir):
    """The proposal file last written for an imdb with that output folder."""
    found = sorted(glob.glob(proposal_file(glob.escape(output_dir), '*')), key=os.path.getmtime)
    if not found:
        raise FileNotFoundError(
            f'{output_dir} holds no proposals (*_rpn_proposals.npz): run tools/rpn_generate.py for this '
            f'imdb with the same --cfg, or give --rpn_file'
        )
    log.info('proposals: %s%s', found[-1], f' (the newest of {len(found)})' if len(found) > 1 else '')
    return found[-1]


def save_proposals(path, boxes, scores=None):
    """boxes: N arrays (n_i, 4), scores: N arrays (n_i,) or (n_i, 1), or None."""
    rows, counts = pack(boxes, 4)
    arrays = {'boxes': rows, 'counts': counts}
    if scores is not None:
        arrays['scores'], score_counts = pack(scores, 1)
        if not np.array_equal(score_counts, counts):
            raise ValueError(f'{path}: the numbers of scores and of boxes differ')
    save_npz(path, **arrays)


def load_proposals(path):
    """-> N arrays (n_i, 4), or (n_i, 5) with scores.

    path: an .npz of save_proposals, a pickle of one list of arrays, or a folder with 0.pkl .. (N-1).pkl.
    """
    if os.path.isdir(path):
        return _from_folder(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no proposal file; tools/rpn_generate.py writes one')
    if _is_pickle(path):
        return [_boxes(path, item) for item in safe_pickle.load(path)]
    arrays = _wanted(path, 'boxes', 'counts')
    rows = np.hstack([arrays['boxes'], arrays['scores']]) if 'scores' in arrays else arrays['boxes']
    return unpack(rows, arrays['counts'])


def save_detections(path, all_boxes):
    """all_boxes[class][image]: (n, 5) array or empty list. A path that ends in .pkl: a pickle of it."""
    if path.endswith('.pkl'):
        with atomic_path(path) as temporary, open(temporary, 'wb') as stream:
            pickle.dump(all_boxes, stream, pickle.HIGHEST_PROTOCOL)
        return
    rows, counts = pack([boxes for of_class in all_boxes for boxes in of_class], 5)
    save_npz(path, rows=rows, counts=counts.reshape(len(all_boxes), -1))


def load_detections(path):
    """-> all_boxes[class][image], (n, 5) float32, of save_detections or an older tool's detections.pkl."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no detection file; tools/test_net.py writes one')
    if _is_pickle(path):
        return [
            [np.asarray(boxes, np.float32).reshape(-1, 5) for boxes in of_class]
            for of_class in safe_pickle.load(path)
        ]
    arrays = _wanted(path, 'rows', 'counts')
    num_classes, num_images = arrays['counts'].shape
    boxes = unpack(arrays['rows'], arrays['counts'].ravel())
    return [boxes[c * num_images : (c + 1) * num_images] for c in range(num_classes)]


def _is_pickle(path):
    with open(path, 'rb') as stream:
        return stream.read(2) != b'PK'


def _wanted(path, *names):
    arrays = load_npz(path)
    for name in names:
        if name not in arrays:
            raise ValueError(f'{path}: wanted an array {name}, got {sorted(arrays)}')
    return arrays


def _from_folder(path):
    count = sum(name.endswith('.pkl') for name in os.listdir(path))
    files = [os.path.join(path, f'{i}.pkl') for i in range(count)]
    missing = [name for name in files if not os.path.exists(name)]
    if missing or not files:
        raise FileNotFoundError(
            f'{path}: wanted 0.pkl .. N-1.pkl, one an image; '
            f'found {count}, missing {(missing or files or ["all"])[0]}'
        )
    return [_boxes(name, safe_pickle.load(name)) for name in files]


def _boxes(path, item):
    boxes = np.asarray(item, np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise ValueError(f'{path}: wanted boxes of shape (n, 4) or (n, 5), got {boxes.shape}')
    return boxes

"""Proposals and detections on disk, without pickle; and the older tools' pickles, read safely.

A proposal file is an index, JSON, of shards beside it (utils.shards): {"images": N, "columns": 4, or 5 with scores,
"boxes": M, "shards": K, "digest": of them all}. Boxes are x1 y1 x2 y2 in pixels of the original image. Earlier ones
are .npz: `boxes` (sum n_i, 4), `scores` (sum n_i,) if known, `counts` (N,).
A detection file, .npz, holds `rows` (M, 5) x1 y1 x2 y2 score and `counts` (K, N), and where there are masks `codes`, the
bytes of their run lengths in pycocotools' code, `ends` (M,) of each, and `sizes` (M, 2) height and width.
"""

import glob
import hashlib
import json
import logging
import os
import pickle

import numpy as np

from utils import safe_pickle
from utils.files import atomic_path, load_npz, pack, read_text, save_npz, unpack
from utils.shards import Rows, Shard, open_shards, remove_shards

log = logging.getLogger(__name__)


def proposal_file(output_dir, net_name):
    """Where the proposals of a net for an imdb with that output folder lie."""
    return os.path.join(output_dir, f'{net_name}_rpn_proposals.json')


def newest_proposals(output_dir):
    """The proposal file last written for an imdb with that output folder."""
    stem = os.path.join(glob.escape(output_dir), '*_rpn_proposals')
    found = sorted(glob.glob(stem + '.json') + glob.glob(stem + '.npz'), key=os.path.getmtime)
    if not found:
        raise FileNotFoundError(
            f'{output_dir} holds no proposals (*_rpn_proposals.json): run tools/rpn_generate.py for this '
            f'imdb with the same --cfg, or give --rpn_file'
        )
    log.info('proposals: %s%s', found[-1], f' (the newest of {len(found)})' if len(found) > 1 else '')
    return found[-1]


def save_proposals(path, boxes, scores=None):
    """boxes: N arrays (n_i, 4), scores: N arrays (n_i,) or (n_i, 1), or None. path: of the index, ends in .json."""
    rows, counts = pack(boxes, 4)
    if scores is not None:
        scores, score_counts = pack(scores, 1)
        if not np.array_equal(score_counts, counts):
            raise ValueError(f'{path}: the numbers of scores and of boxes differ')
        rows = np.hstack([rows, scores])
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    mark = hashlib.sha256(counts.tobytes() + rows.tobytes()).digest()
    with Shard(shard_stem(path), rows.shape[1], mark) as shard:
        for of_image in unpack(rows, counts)[len(shard) :]:
            shard.append(of_image)
    write_index(path, rows.shape[1], 1, len(counts))


def shard_stem(path):
    """What the names of a proposal or detection file's shards begin with."""
    return os.path.splitext(path)[0]


def write_index(path, columns, shards, images):
    """Writes a proposal file of as many finished shards; those of another number are removed."""
    rows = open_shards(shard_stem(path), columns, shards, images)
    index = {
        'images': images,
        'columns': columns,
        'boxes': sum(map(len, rows.parts)),
        'shards': shards,
        'digest': rows.digest,
    }
    with atomic_path(path) as temporary, open(temporary, 'w') as stream:
        json.dump(index, stream, indent=1)
    remove_shards(shard_stem(path), but=shards)


def load_proposals(path):
    """-> utils.shards.Rows: len() N, [i] (n_i, 4), or (n_i, 5) with scores; digest.

    path: a proposal file, a pickle of one list of arrays, or a folder with 0.pkl .. (N-1).pkl.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return _together(path, _from_folder(path))
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no proposal file; tools/rpn_generate.py writes one')
    with open(path, 'rb') as stream:
        begin = stream.read(2)
    if begin[:1] == b'{':
        return _indexed(path)
    if begin != b'PK':
        return _together(path, [_boxes(path, item) for item in _list(path, safe_pickle.load(path))])
    rows, counts = _arrays(path, 'boxes', 4, 1)
    return Rows([rows], [counts], source=(load_proposals, path))


def save_detections(path, all_boxes, masks=None):
    """all_boxes[class][image]: (n, 5) array or empty list; masks[class][image]: their n RLEs, or None. A path that ends in
    .pkl: a pickle of the boxes."""
    if path.endswith('.pkl'):
        with atomic_path(path) as temporary, open(temporary, 'wb') as stream:
            pickle.dump(all_boxes, stream, pickle.HIGHEST_PROTOCOL)
        return
    rows, counts = pack([boxes for of_class in all_boxes for boxes in of_class], 5)
    more = (
        {}
        if masks is None
        else _mask_arrays([rle for of_class in masks for found in of_class for rle in found])
    )
    save_npz(path, rows=rows, counts=counts.reshape(len(all_boxes), -1), **more)


def _mask_arrays(rles):
    return {
        'codes': np.frombuffer(b''.join(rle['counts'] for rle in rles), np.uint8),
        'ends': np.cumsum([len(rle['counts']) for rle in rles], dtype=np.int64),
        'sizes': np.array([rle['size'] for rle in rles], np.int32).reshape(-1, 2),
    }


def load_masks(path):
    """-> masks[class][image], lists of RLEs, of save_detections; None where it was given none, or is no .npz file."""
    with open(path, 'rb') as stream:
        if stream.read(2) != b'PK':
            return None
    arrays = load_npz(path)
    if 'codes' not in arrays:
        return None
    rows, counts = _arrays(path, 'rows', 5, 2)
    codes, ends, sizes = (arrays.get(key) for key in ('codes', 'ends', 'sizes'))
    if len(rows) != len(ends) or len(rows) != len(sizes) or (len(ends) and ends[-1] != len(codes)):
        raise ValueError(f'{path}: wanted masks of {len(rows)} boxes, got {len(ends)} of {len(sizes)} sizes')
    parts = np.split(codes, ends[:-1]) if len(ends) else []
    rles = [
        {'size': size, 'counts': code.tobytes()} for code, size in zip(parts, sizes.tolist(), strict=True)
    ]
    cuts = np.append(0, np.cumsum(counts)).tolist()
    lists = [rles[begin:end] for begin, end in zip(cuts, cuts[1:])]
    return [lists[k : k + counts.shape[1]] for k in range(0, len(lists), counts.shape[1])]


def load_detections(path):
    """-> all_boxes[class][image], (n, 5) float32, of save_detections or an older tool's detections.pkl."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no detection file; tools/test_net.py writes one')
    with open(path, 'rb') as stream:
        if stream.read(2) != b'PK':
            return [
                [_boxes(path, boxes, 5) for boxes in _list(path, of_class)]
                for of_class in _list(path, safe_pickle.load(path))
            ]
    rows, counts = _arrays(path, 'rows', 5, 2)
    num_classes, num_images = counts.shape
    boxes = unpack(rows, counts.ravel())
    return [boxes[c * num_images : (c + 1) * num_images] for c in range(num_classes)]


def _indexed(path):
    """The Rows of an index and its shards."""
    try:
        index = json.loads(read_text(path))
        columns, shards, images = (int(index[key]) for key in ('columns', 'shards', 'images'))
        digest = index['digest']
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f'{path}: not an index of proposals ({error!r})') from None
    if columns not in (4, 5) or shards < 1 or images < 0:
        raise ValueError(f'{path}: wanted 4 or 5 columns and some shards, got {index}')
    rows = open_shards(shard_stem(path), columns, shards, images)
    if rows.digest != digest:
        raise ValueError(f'{path}: its shards were written anew since; tools/rpn_generate.py finishes them')
    rows.source = load_proposals, path
    return rows


def _together(path, arrays):
    """The Rows of arrays of equally many columns; empty ones may have any."""
    columns = min((boxes.shape[1] for boxes in arrays if len(boxes)), default=4)
    rows, counts = pack([boxes[:, :columns] if len(boxes) else [] for boxes in arrays], columns)
    return Rows([rows], [counts], source=(load_proposals, path))


def _arrays(path, name, columns, axes):
    """(rows, counts) of an .npz file: `name` (M, columns), with a column more where there are scores (M, 1), and whole
    numbers in as many axes, M together."""
    arrays = load_npz(path)
    for wanted in name, 'counts':
        if wanted not in arrays:
            raise ValueError(f'{path}: wanted an array {wanted}, got {sorted(arrays)}')
    parts, counts = [arrays[key] for key in (name, 'scores') if key in arrays], arrays['counts']
    whole = counts.dtype.kind in 'iu' and counts.ndim == axes and counts.min(initial=0) >= 0
    shapes, total = [part.shape for part in parts], int(counts.sum()) if whole else None
    numbers = all(part.dtype.kind == 'f' for part in parts)
    if not numbers or shapes != [(total, columns), (total, 1)][: len(parts)]:
        raise ValueError(
            f'{path}: wanted rows of {columns} numbers and their counts, got {name} and scores of {shapes} and counts '
            f'of {total} in {counts.shape}'
        )
    return np.hstack(parts), counts


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


def _list(path, item):
    if not isinstance(item, (list, tuple)):
        raise ValueError(f'{path}: wanted a list, got {type(item).__name__}')
    return item


def _boxes(path, item, least=4):
    """An array (n, at least so many) of numbers; float32."""
    try:
        boxes = np.asarray(item, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: wanted boxes, arrays of numbers ({error})') from None
    if boxes.size == 0:
        return np.zeros((0, least), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] < least:
        raise ValueError(f'{path}: wanted boxes of shape (n, {least}), got {boxes.shape}')
    return boxes

"""tools/vis_imdb.py: a picture an image, its objects by name and its proposals drawn."""

import os

import cv2
import numpy as np
import vis_imdb
from tool_runs import RECORDED, VAL, results, run_main, settings

from datasets.imagenet import imagenet
from utils.proposals import proposal_file, save_proposals


def test_objects_and_proposals(monkeypatch, tmp_path):
    count = imagenet('val2', devkit_path=str(RECORDED / 'ImageNet2015')).num_images
    save_proposals(
        proposal_file(results(tmp_path), 'n'), [np.array([[10, 10, 60, 60], [20, 20, 50, 50]])] * count
    )
    words = ['--imdb', VAL, '--most', 2, '--boxes', 1]
    run_main(monkeypatch, vis_imdb.main, *words, '--out', tmp_path / 'gt', *settings(tmp_path))
    more = ['--method', 'rpn', '--out', tmp_path / 'rpn', '--format', 'png']
    run_main(monkeypatch, vis_imdb.main, *words, *more, *settings(tmp_path, 'EXP_DIR', 'default'))
    names = sorted(os.listdir(tmp_path / 'gt'))
    assert len(names) == 2 and names == sorted(os.listdir(tmp_path / 'rpn'))
    for name in names:
        plain, drawn = (cv2.imread(str(tmp_path / folder / name)) for folder in ('gt', 'rpn'))
        rows, columns = np.nonzero((plain != drawn).any(2))
        factor = max(1, -(-400 // max(imread_shape(name))))
        assert rows.max() <= 62 * factor and columns.max() <= 62 * factor and len(rows)


def imread_shape(name):
    stem = name.split('_', 1)[1].rsplit('.', 1)[0]
    return cv2.imread(str(RECORDED / 'ImageNet2015' / 'Data' / 'DET' / 'val' / f'{stem}.JPEG')).shape[:2]

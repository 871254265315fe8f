"""tools/rpn_generate.py and rpn.generate: how many proposals are written, what they are, that forks can keep them."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import rpn_generate
from tool_runs import VAL, results, run_main, settings, tiny

from fast_rcnn import each_image
from fast_rcnn.config import cfg
from rpn import generate
from utils.proposals import load_proposals

IMAGENET = ['--cfg', 'experiments/cfgs/imagenet.yml']


@pytest.mark.parametrize(
    'cfg_file, more, limits',
    [([], [], (-1, 2000)), (IMAGENET, [], (-1, 300)), (IMAGENET, ['TEST.RPN_POST_NMS_TOP_N', 7], (-1, 7))],
    ids=['plain', 'imagenet', 'set'],
)
def test_how_many(monkeypatch, tmp_path, cfg_file, more, limits):
    made = []

    def ask(net, images):
        made.append((cfg.TEST.RPN_PRE_NMS_TOP_N, cfg.TEST.RPN_POST_NMS_TOP_N))
        return lambda: [(np.zeros((2, 4)), np.zeros((2, 1)))]

    monkeypatch.setattr(generate, 'ask', ask)
    words = [*tiny('rpn_test.pt', 'stage1_rpn'), '--imdb', VAL, *cfg_file]
    run_main(monkeypatch, rpn_generate.main, *words, *settings(tmp_path, 'EXP_DIR', 'default', *more))
    written = load_proposals(results(tmp_path, 'stage1_rpn_rpn_proposals.json'))
    assert made == [limits] * len(written)
    assert [boxes.shape for boxes in written] == [(2, 5)] * len(written)


class Imdb:
    name, num_images = 'two', 2

    def image_path_at(self, i):
        return str(i)


def test_proposals_of_an_imdb_are_a_list_of_boxes_that_a_pickle_keeps(monkeypatch, tmp_path):
    boxes = [np.array([[i, 0, 9, 9]], np.float32) for i in range(2)]
    monkeypatch.setattr(each_image, 'read_image', int)
    monkeypatch.setattr(generate, 'scaled_image', lambda im, family: im)
    monkeypatch.setattr(
        generate, 'ask', lambda net, ims: lambda: [(boxes[im], np.ones((1, 1))) for im in ims]
    )
    made = generate.imdb_proposals(SimpleNamespace(layers=[], name='none'), Imdb())
    assert isinstance(made, list)
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
    for read in pickle.loads((tmp_path / 'p.pkl').read_bytes()), load_proposals(str(tmp_path / 'p.pkl')):
        assert [b.tolist() for b in read] == [b.tolist() for b in boxes]


def test_the_flags_of_the_original():
    words = ['--def', 'd', '--net', 'n']
    args = rpn_generate.parse_args([*words, '--gpu', '1', '--cfg', 'c', '--wait', 'True', '--set', 'A', '1'])
    assert (args.gpu, args.imdb, args.wait, args.set_cfgs) == ([1], 'voc_2007_test', True, ['A', '1'])
    assert [rpn_generate.parse_args(words + more).wait for more in ([], ['--wait'], ['--wait', 'False'])] == [
        False,
        True,
        False,
    ]

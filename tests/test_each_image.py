"""Proposals and detections of every image: each rank its shard, gone on with after a stop; joined they are those of
one process."""

import json
import os
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from devkits import write_image
from tool_runs import NETS, RECORDED, VAL, results

from datasets.factory import get_imdb
from fast_rcnn import each_image as each
from fast_rcnn import evaluation
from fast_rcnn.config import cfg_from_list, cfg_restore, cfg_values, get_output_dir, overrides
from rpn import generate
from utils.proposals import load_detections, load_proposals, proposal_file
from utils.shards import open_shards


@pytest.fixture
def world(monkeypatch):
    """world(rank, count): what this process is to be from now on. Rank 0 comes last."""
    for module, name in (each, 'barrier'), (generate, 'barrier'):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(evaluation, 'share', lambda value: value)

    def become(rank, count):
        caffe.set_solver_rank(rank)
        caffe.set_solver_count(count)

    yield become
    become(0, 1)


@pytest.fixture
def small(tmp_path):
    """Settings for the recorded devkit, its first images alone."""
    before = cfg_values()
    yield settle(tmp_path)
    cfg_restore(before)


def settle(folder):
    """The imdb of these images, results going to that folder."""
    words = ['ROOT_DIR', str(folder), 'DATA_DIR', str(RECORDED), 'TEST.SCALES', [120], 'USE_GPU_NMS', False]
    cfg_from_list(words)
    imdb = get_imdb(VAL)
    imdb._image_index = imdb._image_index[:4]
    return imdb


def net(prototxt, weights):
    made = caffe.Net(str(NETS / prototxt), str(RECORDED / f'{weights}.caffemodel'), caffe.TEST)
    made.name = weights
    return made


def test_ranks_together_propose_what_one_does(small, world):
    rpn = net('rpn_test.pt', 'stage1_rpn')
    path = proposal_file(get_output_dir(small), rpn.name)
    digests = set()
    for count in 1, 2:
        for rank in reversed(range(count)):
            world(rank, count)
            assert generate.write_proposals(rpn, small, path) == path
        digests.add(load_proposals(path).digest)
    assert len(digests) == 1 and len(load_proposals(path)) == 4
    assert sorted(os.listdir(os.path.dirname(path)))[0:2] == [
        'stage1_rpn_rpn_proposals.0of2.rows',
        'stage1_rpn_rpn_proposals.0of2.table',
    ]
    expected = generate.im_proposals(rpn, each.read_image(small.image_path_at(2)))
    np.testing.assert_array_equal(load_proposals(path)[2], np.hstack(expected))


def test_ranks_together_detect_what_one_does(small, world, monkeypatch):
    detector = net('faster_rcnn_test.pt', 'stage2_fast_rcnn')
    given = []
    monkeypatch.setattr(small, 'evaluate_detections', lambda boxes, folder: given.append(boxes) or 0.25)
    files = []
    with overrides({'TEST.HAS_RPN': True}):
        for count in 1, 2:
            for rank in reversed(range(count)):
                world(rank, count)
                mean_ap = evaluation.test_net(detector, small, max_per_image=7)
            assert mean_ap == 0.25 and os.listdir(results_of(detector)) == ['detections.npz']
            files.append(load_detections(os.path.join(results_of(detector), 'detections.npz')))
    assert len(given) == 2 and len(given[0]) == small.num_classes  # rank 0 alone evaluates
    assert sum(len(boxes) for of_class in given[0] for boxes in of_class) > 5
    for one in (given[1], *files):
        for ours, theirs in zip(one, given[0], strict=True):
            for boxes, wanted in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(boxes, wanted)


# Ranks of one script: the second is killed at its second image; then both do what is left, and test.
WORLD = """
import json, multiprocessing, os, signal, sys
import caffe
from caffe import parallel
from fast_rcnn import evaluation
from rpn import generate
import test_each_image as test


def rank(r, port, dies):
    os.environ.update(RANK=str(r), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    parallel.join(f'dies {dies}')
    looked, ask = [], generate.ask

    def counted(net, images):
        if dies and r == 1 and looked:
            os.kill(os.getpid(), signal.SIGKILL)
        looked.append(images)
        return ask(net, images)

    generate.ask = counted
    generate.write_proposals(rpn, imdb, path)
    mean_ap = evaluation.test_net(detector, imdb, max_per_image=7)
    with open(f'told{r}.json', 'w') as stream:
        json.dump([len(looked), mean_ap], stream)


path, *ports = sys.argv[1:]
imdb = test.settle(os.getcwd())
rpn, detector = test.net('rpn_test.pt', 'stage1_rpn'), test.net('faster_rcnn_test.pt', 'stage2_fast_rcnn')
test.cfg_from_list(['TEST.HAS_RPN', True])
for dies, port in zip((True, False), ports):
    ranks = [multiprocessing.Process(target=rank, args=(r, port, dies)) for r in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    print([one.exitcode for one in ranks])
"""


def test_killed_ranks_go_on_and_learn_the_same_mean_ap(tmp_path, small):
    path = proposal_file(str(tmp_path), 'one')
    generate.write_proposals(net('rpn_test.pt', 'stage1_rpn'), small, path)
    with socket.socket() as one, socket.socket() as other:
        for found in one, other:
            found.bind(('', 0))
        ports = [str(found.getsockname()[1]) for found in (one, other)]
    (tmp_path / 'world.py').write_text(WORLD)
    run = subprocess.run(
        [sys.executable, 'world.py', proposal_file(str(tmp_path), 'two'), *ports],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    codes = [line for line in run.stdout.splitlines() if line[0] == '[']
    assert codes[0].endswith('-9]') and codes[1] == '[0, 0]', run.stderr
    (first, mean_ap), (second, same) = (
        json.loads((tmp_path / f'told{r}.json').read_text()) for r in range(2)
    )
    assert (first, second) == (0, 2) and mean_ap == same  # the first was not written before the second's turn
    assert load_proposals(proposal_file(str(tmp_path), 'two')).digest == load_proposals(path).digest


def results_of(a_net):
    return results(cfg_values()['ROOT_DIR'], a_net.name)


class Imdb:
    """Four images."""

    name, num_images = 'four', 4

    def __init__(self, folder):
        self.paths = [write_image(folder / f'{i}.png') for i in range(4)]

    def image_path_at(self, i):
        return self.paths[i]


def scales(weight):
    """A net of one layer with one weight."""
    blobs = [SimpleNamespace(data=np.array([weight], np.float32))]
    return SimpleNamespace(layers=[SimpleNamespace(layer_param=caffe_pb2.LayerParameter(), blobs=blobs)])


def look(folder, imdb, looked, weight=1, given=0):
    """Looks at the images, which `looked` is to list."""

    def run(numbers, scaled):
        looked.extend(numbers)
        return numbers

    steps = each.Steps(np.shape, run, lambda numbers: [np.full((1, 2), i) for i in numbers])
    each.each_image(scales(weight), imdb, str(folder / 'x'), steps, 2, 1, 'a look', given)


@pytest.mark.parametrize('fault', ['vanished', 'corrupt'])
def test_an_image_that_cannot_be_read_is_named_and_what_was_done_stays(tmp_path, fault):
    imdb = Imdb(tmp_path)
    os.remove(imdb.paths[2])
    if fault == 'corrupt':
        (tmp_path / '2.png').write_bytes(b'\x89PNG, no more')
    looked = []
    with pytest.raises(OSError, match='2.png: '):
        look(tmp_path, imdb, looked)
    assert looked == [0, 1]
    write_image(imdb.paths[2])
    look(tmp_path, imdb, looked)
    look(tmp_path, imdb, looked)
    assert looked == [0, 1, 2, 3]
    assert [rows.tolist() for rows in open_shards(str(tmp_path / 'x'), 2, 1, 4)] == [
        [[i, i]] for i in range(4)
    ]


class Stepped:
    """Steps over images numbered by their place, whose shapes are given; what happens, in its order, and in which
    thread."""

    def __init__(self, shapes, fault=None):
        self.shapes, self.fault, self.seen, self.main = shapes, fault, [], threading.get_ident()
        self.began = {i: threading.Event() for i in range(len(shapes) + 1)}

    def images(self):
        return [(10 + i, str(i)) for i in range(len(self.shapes))]

    def read(self, path):
        return int(path)

    def scale(self, im):
        assert threading.get_ident() != self.main
        self.check('scale', im)
        return SimpleNamespace(data=np.zeros((1, 3, *self.shapes[im])), im=im)

    def run(self, numbers, scaled):
        ims = [one.im for one in scaled]
        assert threading.get_ident() == self.main and list(numbers) == [10 + im for im in ims]
        for im in ims:
            self.began[im].set()
            self.check('run', im)
        self.seen.append(('run', *ims))
        return ims

    def finish(self, ims):
        assert threading.get_ident() != self.main
        for im in ims:
            self.check('finish', im)
        return [np.full((1, 2), im) for im in ims]

    def show(self, im, rows):
        assert threading.get_ident() == self.main and rows[0, 0] == im
        self.seen.append(('show', im))

    def check(self, what, im):
        if self.fault == (what, im):
            raise ValueError(f'a faulty {what}')

    def results(self, monkeypatch, size=1, done=0, show=False):
        monkeypatch.setattr(each, 'read_image', self.read)
        steps = each.Steps(self.scale, self.run, self.finish, self.show if show else None)
        with overrides({'TEST.IMS_PER_BATCH': size}):
            return [int(rows[0, 0]) for rows in each.answers(self.images(), steps, 'a look', done)]

    def passes(self):
        return [seen[1:] for seen in self.seen if seen[0] == 'run']


def test_the_net_has_the_next_image_while_one_is_finished_with(monkeypatch):
    stepped = Stepped([(4, 6)] * 5)
    finish = stepped.finish

    def waits_for_the_next(ims):
        assert ims == [4] or stepped.began[ims[0] + 1].wait(30)
        return finish(ims)

    stepped.finish = waits_for_the_next
    assert stepped.results(monkeypatch, show=True) == [0, 1, 2, 3, 4]
    runs = [seen for seen in stepped.seen if seen[0] == 'run']
    assert runs == [('run', i) for i in range(5)]
    assert [seen for seen in stepped.seen if seen[0] == 'show'] == [('show', i) for i in range(5)]
    assert stepped.seen.index(('show', 0)) == 2  # kept as soon as the next one's net has run


@pytest.mark.parametrize('what', ['scale', 'run', 'finish'])
def test_an_error_of_any_step_names_the_image(monkeypatch, what):
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=f'^2: a faulty {what}'):
        Stepped([(4, 6)] * 5, (what, 2)).results(monkeypatch)
    with pytest.raises(ValueError, match=f'2.*: a faulty {what}'):
        Stepped([(4, 6)] * 5, (what, 2)).results(monkeypatch, 2)
    assert set(threading.enumerate()) <= before


SHAPES = [(4, 6), (6, 4), (4, 6), (6, 4), (4, 6), (6, 4), (4, 6), (6, 4), (6, 4), (4, 6), (6, 4)]


def test_images_of_like_shape_go_together_and_their_results_come_in_order(monkeypatch):
    stepped = Stepped(SHAPES)
    assert stepped.results(monkeypatch, 2) == list(range(11))
    assert stepped.passes() == [(0, 2), (4, 6), (1, 3), (5, 7), (9, 8), (10,)]


@pytest.mark.parametrize('done', [0, 1, 3, 7, 8, 10, 11])
def test_passes_are_the_same_wherever_one_goes_on(monkeypatch, done):
    """Only those that give nothing new are left out: so an image is padded as it would have been."""
    stepped = Stepped(SHAPES)
    assert stepped.results(monkeypatch, 2, done) == list(range(done, 11))
    whole = [(0, 2), (4, 6), (1, 3), (5, 7), (9, 8), (10,)]
    assert stepped.passes() == [one for one in whole if max(one) >= done]


@pytest.mark.parametrize('change', ['weights', 'settings', 'images', 'given', 'folders'])
def test_what_decides_the_answers_begins_anew(tmp_path, change):
    imdb, looked = Imdb(tmp_path), []
    look(tmp_path, imdb, [])
    if change == 'images':
        imdb.paths[0] = imdb.paths[1]
    settings = {'settings': {'TEST.MAX_SIZE': 17}, 'folders': {'ROOT_DIR': str(tmp_path)}}.get(change, {})
    with overrides(settings):
        look(tmp_path, imdb, looked, **{'weights': {'weight': 2}, 'given': {'given': 1}}.get(change, {}))
    assert looked == ([] if change == 'folders' else [0, 1, 2, 3])


def test_a_disk_that_may_be_too_small_is_said_before(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(each.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=31))
    look(tmp_path, Imdb(tmp_path), [])
    assert 'up to 3.2e-08 GB are to be written, 3.1e-08 GB are free' in caplog.text


def test_boxes_that_are_given_decide_detections():
    entries = [
        {'boxes': np.full((2, 4), value, np.float32), 'gt_classes': np.array([1, 0])} for value in (1, 2)
    ]
    digests = set()
    for entry in entries:
        with overrides({'TEST.HAS_RPN': False}):
            digests.add(evaluation._given_digest(SimpleNamespace(roidb=[entry], num_images=1)))
        with overrides({'TEST.HAS_RPN': True}):
            digests.add(evaluation._given_digest(SimpleNamespace(num_images=1)))
    assert len(digests) == 3

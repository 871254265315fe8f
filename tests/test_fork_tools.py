"""The originals' tools, carried to Python 3: what a fork's train_net, test_net and so on call, in that order.

Each function here is one tool's body, less its command line. A stage that had a process of its own gets the
settings back afterwards, and a queue for its answer, as there.
"""

import os
import pickle
import pprint
import queue
import shutil

import caffe
import cv2
import numpy as np
import pytest

from datasets import factory
from datasets.factory import get_imdb
from devkits import obj, write_voc
from fast_rcnn.config import cfg, cfg_from_file, cfg_from_list, cfg_restore, cfg_values, get_output_dir
from fast_rcnn.nms_wrapper import nms
from fast_rcnn.test import apply_nms, im_detect, test_net as detect_all, vis_detections
from fast_rcnn.train import get_training_roidb, train_net
from netgen.files import generate
from rpn.generate import imdb_proposals
from test_fork_code import shapes
from utils.timer import Timer

NET = 'ResNet-10'
SETTINGS = """
EXP_DIR: fork
TRAIN: {SCALES: [64], MAX_SIZE: 100, RPN_MIN_SIZE: 1, RPN_BATCHSIZE: 16, BATCH_SIZE: 8, BG_THRESH_LO: 0.0}
TEST: {SCALES: [64], MAX_SIZE: 100, RPN_MIN_SIZE: 1, HAS_RPN: True, DETECTIONS_PKL: True}
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A fork's folder: devkit, nets, a settings file."""
    folder = tmp_path_factory.mktemp('fork')
    images = {str(i): [obj('square', 5 + i, 4, 30, 30), obj('circle', 20, 8, 50, 35 + i)] for i in range(3)}
    write_voc(folder / 'kit' / 'VOC2007', images, {'train': images, 'test': ['0', '1']})
    generate('shapes', NET, 3, folder / 'models', {'scales': [1, 2], 'ratios': [1]})
    (folder / 'fork.yml').write_text(SETTINGS)
    return folder


@pytest.fixture(autouse=True)
def fork(home, monkeypatch):
    """Every tool's beginning: the settings, the device."""
    monkeypatch.setattr(factory, '_added', {})
    for split in 'train', 'test':
        factory.register(f'shapes_{split}', lambda split=split: shapes(split, str(home / 'kit')))
    monkeypatch.setattr(cfg, 'ROOT_DIR', str(home))
    monkeypatch.setattr(cfg, 'DATA_DIR', str(home / 'data'))
    monkeypatch.setattr(cfg, 'MODELS_DIR', str(home / 'models' / 'shapes'))
    cfg_from_file(str(home / 'fork.yml'))
    cfg_from_list(['TRAIN.USE_FLIPPED', 'True'])
    cfg.GPU_ID = 0
    pprint.pformat(cfg)


# ---------------------------------------------------------------- train_faster_rcnn_alt_opt
def get_roidb(imdb_name, rpn_file=None):
    imdb = get_imdb(imdb_name)
    imdb.set_proposal_method(cfg.TRAIN.PROPOSAL_METHOD)
    if rpn_file is not None:
        imdb.config['rpn_file'] = rpn_file
    return get_training_roidb(imdb), imdb


def get_solvers(net_name):
    folder = os.path.join(cfg.MODELS_DIR, net_name, 'faster_rcnn_alt_opt')
    solvers = ['stage1_rpn_solver60k80k.pt', 'stage1_fast_rcnn_solver30k40k.pt']
    solvers += ['stage2_rpn_solver60k80k.pt', 'stage2_fast_rcnn_solver30k40k.pt']
    return [os.path.join(folder, name) for name in solvers], os.path.join(folder, 'rpn_test.pt')


def init_caffe(cfg):
    np.random.seed(cfg.RNG_SEED)
    caffe.set_random_seed(cfg.RNG_SEED)
    caffe.set_mode_cpu()


def keep_last(model_paths):
    for path in model_paths[:-1]:
        os.remove(path)
    return model_paths[-1]


def train_rpn(queue=None, imdb_name=None, init_model=None, solver=None, max_iters=None, cfg=None):
    cfg.TRAIN.HAS_RPN = True
    cfg.TRAIN.BBOX_REG = False
    cfg.TRAIN.PROPOSAL_METHOD = 'gt'
    cfg.TRAIN.IMS_PER_BATCH = 1
    init_caffe(cfg)
    roidb, imdb = get_roidb(imdb_name)
    assert len(roidb) == 2 * 3
    output_dir = get_output_dir(imdb, None)
    paths = train_net(solver, roidb, output_dir, pretrained_model=init_model, max_iters=max_iters)
    queue.put({'model_path': keep_last(paths)})


def rpn_generate(queue=None, imdb_name=None, rpn_model_path=None, cfg=None, rpn_test_prototxt=None):
    cfg.TEST.RPN_PRE_NMS_TOP_N = -1
    cfg.TEST.RPN_POST_NMS_TOP_N = 2000
    init_caffe(cfg)
    imdb = get_imdb(imdb_name)
    rpn_net = caffe.Net(rpn_test_prototxt, rpn_model_path, caffe.TEST)
    output_dir = get_output_dir(imdb, None)
    rpn_proposals = imdb_proposals(rpn_net, imdb)
    name = os.path.splitext(os.path.basename(rpn_model_path))[0]
    path = os.path.join(output_dir, name + '_proposals.pkl')
    with open(path, 'wb') as f:
        pickle.dump(rpn_proposals, f, pickle.HIGHEST_PROTOCOL)
    queue.put({'proposal_path': path})


def train_fast_rcnn(
    queue=None, imdb_name=None, init_model=None, solver=None, max_iters=None, cfg=None, rpn_file=None
):
    cfg.TRAIN.HAS_RPN = False
    cfg.TRAIN.PROPOSAL_METHOD = 'rpn'
    cfg.TRAIN.IMS_PER_BATCH = 2
    init_caffe(cfg)
    roidb, imdb = get_roidb(imdb_name, rpn_file=rpn_file)
    output_dir = get_output_dir(imdb, None)
    paths = train_net(solver, roidb, output_dir, pretrained_model=init_model, max_iters=max_iters)
    queue.put({'model_path': keep_last(paths)})


def stage(target, **kwargs):
    """What a process of its own gave: its answer, and the settings as they were."""
    answers, before = queue.Queue(), cfg_values()
    target(queue=answers, cfg=cfg, **kwargs)
    cfg_restore(before)
    return answers.get_nowait()


def alt_opt(net_name, imdb_name, init_model, max_iters):
    solvers, rpn_test = get_solvers(net_name)
    fast_rcnn = {}
    for number, (weights, rpn_solver, solver) in enumerate(
        [(init_model, *solvers[:2]), (None, *solvers[2:])], 1
    ):
        cfg.TRAIN.SNAPSHOT_INFIX = f'stage{number}'
        common = dict(imdb_name=imdb_name, max_iters=max_iters)
        rpn = stage(train_rpn, init_model=weights or fast_rcnn.get('model_path'), solver=rpn_solver, **common)
        rpn.update(
            stage(
                rpn_generate,
                imdb_name=imdb_name,
                rpn_model_path=str(rpn['model_path']),
                rpn_test_prototxt=rpn_test,
            )
        )
        first = init_model if number == 1 else rpn['model_path']
        fast_rcnn = stage(
            train_fast_rcnn, init_model=first, solver=solver, rpn_file=rpn['proposal_path'], **common
        )
    final = os.path.join(os.path.dirname(fast_rcnn['model_path']), net_name + '_faster_rcnn_final.caffemodel')
    shutil.copy(fast_rcnn['model_path'], final)
    return final, rpn['model_path'], rpn['proposal_path']


@pytest.fixture(scope='module')
def trained():
    """What alternating optimization left: final model, RPN, proposals; made by the first test that asks."""
    return {}


@pytest.fixture
def models(trained):
    if not trained:
        trained['paths'] = alt_opt(NET, 'shapes_train', None, 1)
    return trained['paths']


def test_alt_opt(models):
    final, rpn, proposals = models
    assert os.path.exists(rpn) and os.path.exists(final)
    with open(proposals, 'rb') as f:
        boxes = pickle.load(f)
    assert len(boxes) == 3 and all(b.shape[1] == 4 for b in boxes)


# -------------------------------------------------------------------------- train_net
def combined_roidb(imdb_name):
    imdb = get_imdb(imdb_name)
    imdb.set_proposal_method(cfg.TRAIN.PROPOSAL_METHOD)
    return imdb, get_training_roidb(imdb)


def test_train_net(home):
    cfg_from_list(
        ['TRAIN.HAS_RPN', 'True', 'TRAIN.IMS_PER_BATCH', '1', 'TRAIN.PROPOSAL_METHOD', 'gt']
        + ['TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED', 'True', 'EXP_DIR', 'end2end']
    )
    np.random.seed(cfg.RNG_SEED)
    caffe.set_random_seed(cfg.RNG_SEED)
    caffe.set_mode_cpu()
    imdb, roidb = combined_roidb('shapes_train')
    output_dir = get_output_dir(imdb)
    assert len(roidb) == 6 and output_dir.endswith('output/end2end/shapes_train')
    solver = os.path.join(cfg.MODELS_DIR, NET, 'faster_rcnn_end2end', 'solver.prototxt')
    (path,) = train_net(solver, roidb, output_dir, pretrained_model=None, max_iters=1)
    assert os.path.dirname(path) == output_dir and os.path.exists(path)


# ------------------------------------------------------------- test_net, reval, eval_recall
def load_net(prototxt, caffemodel):
    caffe.set_mode_cpu()
    net = caffe.Net(prototxt, caffemodel, caffe.TEST)
    net.name = os.path.splitext(os.path.basename(caffemodel))[0]
    return net


def test_test_net_and_reval(models, home, capsys):
    folder = os.path.join(cfg.MODELS_DIR, NET, 'faster_rcnn_alt_opt')
    net = load_net(os.path.join(folder, 'faster_rcnn_test.pt'), models[0])
    imdb = get_imdb('shapes_test')
    imdb.competition_mode(False)
    if not cfg.TEST.HAS_RPN:
        imdb.set_proposal_method(cfg.TEST.PROPOSAL_METHOD)
    detect_all(net, imdb, max_per_image=100, vis=False)
    output_dir = get_output_dir(imdb, net)
    assert 'Mean AP = ' in capsys.readouterr().out

    imdb = get_imdb('shapes_test')
    imdb.competition_mode(False)
    imdb.config['matlab_eval'] = False
    with open(os.path.join(output_dir, 'detections.pkl'), 'rb') as f:
        dets = pickle.load(f)
    cfg.USE_GPU_NMS = False
    nms_dets = apply_nms(dets, cfg.TEST.NMS)
    imdb.evaluate_detections(nms_dets, output_dir)
    assert 'Mean AP = ' in capsys.readouterr().out


def test_rpn_generate_and_eval_recall(models):
    cfg.TEST.RPN_PRE_NMS_TOP_N = -1
    cfg.TEST.RPN_POST_NMS_TOP_N = 2000
    net = load_net(get_solvers(NET)[1], models[1])
    imdb = get_imdb('shapes_train')
    imdb_boxes = imdb_proposals(net, imdb)
    output_dir = get_output_dir(imdb, net)
    if not os.path.exists(output_dir):
        os.makedirs(output_dir)
    rpn_file = os.path.join(output_dir, net.name + '_rpn_proposals.pkl')
    with open(rpn_file, 'wb') as f:
        pickle.dump(imdb_boxes, f, pickle.HIGHEST_PROTOCOL)

    imdb = get_imdb('shapes_train')
    imdb.set_proposal_method('rpn')
    imdb.config['rpn_file'] = rpn_file
    results = imdb.evaluate_recall(candidate_boxes=None)
    thresholds, recalls = results['thresholds'], results['recalls']
    (at_half,) = recalls[np.isclose(thresholds, 0.5)]
    assert 0 <= results['ar'] <= at_half <= 1 and len(results['gt_overlaps']) == 6


# ------------------------------------------------------------------------------ demo
def test_demo(models, home, monkeypatch):
    plt = pytest.importorskip('matplotlib.pyplot')
    shown = []
    monkeypatch.setattr(plt, 'show', lambda: shown.append(plt.gca().has_data()))
    cfg.TEST.HAS_RPN = True
    folder = os.path.join(cfg.MODELS_DIR, NET, 'faster_rcnn_alt_opt')
    net = load_net(os.path.join(folder, 'faster_rcnn_test.pt'), models[0])
    for _ in range(2):  # as there: on a grey picture, to warm up
        scores, boxes = im_detect(net, 128 * np.ones((60, 80, 3), dtype=np.uint8))
    im = cv2.imread(str(home / 'kit' / 'VOC2007' / 'JPEGImages' / '0.jpg'))
    timer = Timer()
    timer.tic()
    scores, boxes = im_detect(net, im)
    timer.toc()
    assert timer.total_time > 0 and scores.shape[1] == 3 and boxes.shape == (len(scores), 12)
    for cls_ind, cls in enumerate(('square', 'circle'), 1):
        cls_boxes = boxes[:, 4 * cls_ind : 4 * (cls_ind + 1)]
        cls_scores = scores[:, cls_ind]
        dets = np.hstack((cls_boxes, cls_scores[:, np.newaxis])).astype(np.float32)
        keep = nms(dets, 0.3)
        assert 0 < len(dets[keep, :]) <= len(dets)
        vis_detections(im, cls, dets[keep, :], thresh=0.0)
    assert shown == [True, True]

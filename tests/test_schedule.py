"""fast_rcnn.schedule: epochs, the rate's steps, scaling and warm-up; experiments/cfgs of torchvision's recipe."""

import logging
import math

import caffe
import numpy as np
import pytest
from caffe.format.prototxt import read_solver
from caffe.rules import learning_rate
from test_train import read_log, tiny  # noqa: F401

from fast_rcnn.config import cfg, overrides
from fast_rcnn.schedule import iterations_of, scheduled, wanted
from fast_rcnn.train import train_net
from pipeline import recipe
from pipeline.methods import METHODS
from pipeline.settings import cfg_files, cfg_files_of, settle
from roi_data_layer.minibatch import rois_per_image
from netgen.files import files

SOLVER = """train_net: "train.pt" base_lr: 0.001 lr_policy: "step" stepsize: 50000 gamma: 0.1 momentum: 0.9
weight_decay: 0.0005 snapshot_prefix: "p" iter_size: %d"""
COCO = 117266  # images of 2017's training set with objects


@pytest.fixture
def solver(tmp_path):
    def write(iter_size=2):
        (tmp_path / 'solver.prototxt').write_text(SOLVER % iter_size)
        return str(tmp_path / 'solver.prototxt')

    return write


def torchvision_files(dataset):
    return cfg_files('faster_rcnn_end2end', 'ResNet-50-FPN', 'torchvision', dataset)


def test_torchvisions_recipe_for_coco(solver, tmp_path, caplog):
    """26 times 7329 updates of 16 images; the rate rises for 1000, and falls after 16 and 22 times 7329."""
    caplog.set_level(logging.INFO)
    settle(None, torchvision_files('coco'))
    iterations = iterations_of(solver(), cfg.TRAIN, COCO)
    assert iterations == 26 * 7329
    path = scheduled(solver(), cfg.TRAIN, COCO, iterations, str(tmp_path))
    assert (
        'base_lr 0.001 -> 0.02; ' in caplog.text
        and 'rampup_interval 0 -> 1000; rampup_lr 0 -> 2e-05' in caplog.text
    )
    p = read_solver(path)
    assert list(p.stepvalue) == [117264, 161238] and p.train_net == 'train.pt'
    for iteration, rate in (
        (0, 2e-5),
        (500, 0.5 * (0.02 + 2e-5)),
        (1000, 0.02),
        (117263, 0.02),
        (117264, 0.002),
        (161237, 0.002),
        (161238, 0.0002),
    ):
        assert learning_rate(p, iteration) == pytest.approx(rate)
    assert p.weight_decay == pytest.approx(1e-4)
    train = cfg.TRAIN
    assert (train.REAL_BATCH_SIZE, train.FLIP_PROB, train.USE_FLIPPED, train.MAX_SIZE) == (
        16,
        0.5,
        False,
        1333,
    )
    assert train.BATCH_SIZE == 512 * 16 and train.ASPECT_GROUP_FACTOR == 3


@pytest.mark.parametrize(
    'dataset, images, iterations, steps, rate, rois',
    [
        ('pascal_voc', 10022, 12 * 5011, [10 * 5011], 0.001, 128),
        ('pascal_voc_0712', 33102, 12 * 33102, [10 * 33102], 0.001, 128),
        ('coco', 234532, 11 * 58633, [4 * 58633, 9 * 58633], 0.004, 128),
    ],
)
def test_detnets_recipes(solver, tmp_path, dataset, images, iterations, steps, rate, rois):
    """Two images, one or four an update; 5010 is the last iteration of an epoch in DetNet_pytorch's README, 58632 of COCO's."""
    settle(None, cfg_files('faster_rcnn_end2end', 'DetNet-59-FPN', 'detnet', dataset))
    assert iterations_of(solver(), cfg.TRAIN, images) == iterations
    p = read_solver(scheduled(solver(), cfg.TRAIN, images, iterations, str(tmp_path)))
    assert (list(p.stepvalue), p.base_lr) == (steps, pytest.approx(rate))
    assert p.weight_decay == pytest.approx(1e-4) and not cfg.TRAIN.BIAS_DECAY and not cfg.TRAIN.DOUBLE_BIAS
    assert rois_per_image(cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.REAL_BATCH_SIZE, cfg.TRAIN.IMS_PER_BATCH) == rois
    assert cfg.TRAIN.ASPECT_CROPPING == (dataset != 'pascal_voc_0712')


def test_without_settings_a_solver_stays_as_it_is(solver, tmp_path):
    assert iterations_of(solver(), cfg.TRAIN, 100) == 40000
    assert scheduled(solver(), cfg.TRAIN, 100, 40000, str(tmp_path)) == solver()


@pytest.mark.parametrize(
    'workers, real_batch, rate', [(1, 0, 0.0005), (4, 0, 0.002), (4, 16, 0.002), (1, 16, 0.002)]
)
def test_the_rate_is_scaled_to_the_images_of_an_update(
    solver, tmp_path, monkeypatch, caplog, workers, real_batch, rate
):
    """The file's, 0.001, is meant for 8; two images a pass, two passes an update."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(caffe, 'solver_count', lambda: workers)
    with overrides({'TRAIN.LR_BATCH': 8, 'TRAIN.REAL_BATCH_SIZE': real_batch}):
        path = scheduled(solver(), cfg.TRAIN, 100, 50, str(tmp_path))
    assert read_solver(path).base_lr == pytest.approx(rate)
    batch = real_batch or 4 * workers
    assert f'base_lr 0.001 -> {rate}; the rate is scaled from 8 to {batch} images an update' in caplog.text


def test_fewer_iterations_than_the_epochs_fall_at_the_same_shares(solver):
    with overrides({'TRAIN.EPOCHS': 26, 'TRAIN.EPOCH_STEPS': [16, 22], 'TRAIN.WARMUP_ITERS': 1000}):
        fields = wanted(read_solver(solver()), cfg.TRAIN, 16, 7, 52)
    assert fields['stepvalue'] == [32, 44] and fields['rampup_interval'] == 6  # less than an epoch's 7
    with (
        overrides({'TRAIN.EPOCHS': 12, 'TRAIN.EPOCH_STEPS': [16]}),
        pytest.raises(ValueError, match='beyond .*EPOCHS 12'),
    ):
        wanted(read_solver(solver()), cfg.TRAIN, 16, 7, 52)


def test_a_cosine_over_the_whole_training(solver, tmp_path):
    with overrides({'TRAIN.COSINE_LR': True, 'TRAIN.BASE_LR': 0.01}):
        p = read_solver(scheduled(solver(), cfg.TRAIN, 100, 50, str(tmp_path)))
        assert [learning_rate(p, i) for i in (0, 25, 50)] == pytest.approx([0.01, 0.005, 0])
        with (
            overrides({'TRAIN.EPOCHS': 9, 'TRAIN.EPOCH_STEPS': [6]}),
            pytest.raises(ValueError, match='COSINE_LR and TRAIN.EPOCH_STEPS .*6.*: wanted one'),
        ):
            wanted(read_solver(solver()), cfg.TRAIN, 16, 7, 52)


def test_a_training_of_epochs(tiny, tmp_path):  # noqa: F811
    """Two times four images, one an update; the rate rises once, and falls after an epoch."""
    write, roidb = tiny
    settings = {
        'TRAIN.EPOCHS': 2,
        'TRAIN.EPOCH_STEPS': [1],
        'TRAIN.WARMUP_ITERS': 2,
        'TRAIN.WARMUP_FACTOR': 0.5,
    }
    with overrides(settings):
        path = train_net(write(base_lr=1e-6), roidb, str(tmp_path / 'out'))[-1]
    assert path.endswith('tiny_iter_8.caffemodel')
    rates = [line['lr'] for line in read_log(tmp_path / 'out')]
    np.testing.assert_allclose(rates, [5e-7, 7.5e-7, 1e-6, 1e-6, 1e-7, 1e-7, 1e-7, 1e-7], rtol=1e-5)


def test_epochs_are_for_one_training():
    with overrides({'TRAIN.EPOCHS': 12}):
        assert recipe.iterations(METHODS['faster_rcnn_end2end'], 'pascal_voc') == ((70000,), (None,))
        assert recipe.iterations(METHODS['faster_rcnn_end2end'], 'pascal_voc', [9])[1] == (9,)
        with pytest.raises(ValueError, match='faster_rcnn_alt_opt has 4: --max_iters'):
            recipe.iterations(METHODS['faster_rcnn_alt_opt'], 'pascal_voc')


def test_a_warm_up_needs_no_first_rate(solver):
    p = read_solver(solver())
    p.rampup_interval = 4
    assert [learning_rate(p, i) for i in range(6)] == pytest.approx(
        [0, 0.00025, 0.0005, 0.00075, 0.001, 0.001]
    )
    assert math.isclose(learning_rate(p, 50000), 1e-4, rel_tol=1e-6)


# ---------------------------------------------------------------------------------------------- settings files
def names(paths):
    return [path.rpartition('/')[2] for path in paths]


def test_settings_files_go_by_the_net_and_the_dataset():
    general = 'faster_rcnn_end2end_torchvision.yml'
    assert names(torchvision_files('pascal_voc')) == [general]
    assert names(torchvision_files('coco')) == [general, 'faster_rcnn_end2end_torchvision_coco.yml']
    own = 'faster_rcnn_end2end_ResNet-10-FPN'
    assert names(cfg_files('faster_rcnn_end2end', 'ResNet-10-FPN', 'caffe', 'toy')) == [
        f'{own}.yml',
        f'{own}_toy.yml',
    ]
    assert names(cfg_files('faster_rcnn_end2end', 'ResNet-10-FPN', 'caffe', 'bccd')) == [f'{own}.yml']
    assert names(cfg_files('faster_rcnn_end2end', 'VGG16', 'caffe', 'coco')) == ['faster_rcnn_end2end.yml']
    assert names(cfg_files('faster_rcnn_alt_opt', 'VGG16', 'caffe', 'imagenet')) == ['imagenet.yml']
    assert names(cfg_files('faster_rcnn_alt_opt', 'VGG16', 'caffe', 'coco')) == ['faster_rcnn_alt_opt.yml']


def test_settings_files_of_a_nets_file(tmp_path):
    """The tools know a net by its file."""
    for net, name in ('ResNet-18-FPN', 'test'), ('ResNet-18-FPN', 'train'), ('ResNet-10', 'test'):
        texts = {
            p.name: text
            for p, text in files('mine', net, 4).items()
            if p.parent.name == 'faster_rcnn_end2end'
        }
        (tmp_path / f'{net}_{name}').write_text(texts[f'{name}.prototxt'])
    found = [
        cfg_files_of(str(tmp_path / f'ResNet-18-FPN_{name}'), 'coco_2017_val') for name in ('test', 'train')
    ]
    assert found == 2 * [torchvision_files('coco')]
    assert cfg_files_of(str(tmp_path / 'ResNet-18-FPN_test'), None) == torchvision_files(None)
    assert cfg_files_of(str(tmp_path / 'ResNet-10_test'), 'coco_2017_val') == []

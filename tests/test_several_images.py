"""Training on several images a pass: what the losses and gradients are means of, and that it learns and goes on."""

from dataclasses import replace

import caffe
import numpy as np
import pytest
from layer_runs import entry, write_image

from fast_rcnn.config import cfg, overrides
from fast_rcnn.train import SolverWrapper, train_net
from netgen.backbones import ResNet
from netgen.methods import Detector

TINY = ResNet(
    'tiny',
    blocks=(1, 1, 1, 1),
    widths=(16, 16, 16, 16),
    bottleneck=False,
    conv1_outputs=16,
    scratch=True,
    pooled=4,
    rpn_outputs=16,
    rfcn_outputs=16,
)
DETECTOR = Detector(TINY, 3, scales=(1, 2, 4))
FROZEN = Detector(replace(TINY, scratch=False), 3, scales=(1, 2, 4))  # BatchNorm's statistics are given
SETTINGS = {
    'TRAIN.HAS_RPN': True,
    'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True,
    'TRAIN.SCALES': [80],
    'TRAIN.RPN_MIN_SIZE': 4,
    'TRAIN.RPN_POST_NMS_TOP_N': 60,
    'TRAIN.BG_THRESH_LO': 0.0,
    'TRAIN.USE_PREFETCH': False,
    'TRAIN.RPN_BATCHSIZE': 10**6,  # all anchors, so that nothing that counts is drawn
    'USE_GPU_NMS': False,
}
SOLVER = """train_net: "%s" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 display: 1 average_loss: 1
snapshot_prefix: "tiny" """


def net_file(folder, lines):
    path = folder / 'train.prototxt'
    path.write_text('\n'.join(lines))
    return str(path)


def solver_file(folder, lines):
    path = folder / 'solver.prototxt'
    path.write_text(SOLVER % net_file(folder, lines))
    return str(path)


def roidb_of(folder, sizes, objects=([[10, 5, 30, 30]], [[20, 8, 39, 37], [2, 2, 15, 20]])):
    return [
        entry(
            write_image(folder / f'{i}.png', width, height, seed=i),
            objects[i % len(objects)],
            [1 + i % 2] * len(objects[i % len(objects)]),
            width=width,
            height=height,
        )
        for i, (width, height) in enumerate(sizes)
    ]


def give_statistics(net):
    for layer in net.layers:
        if layer.type == 'BatchNorm':
            for blob in layer.blobs[1], layer.blobs[2]:
                blob.data[...] = 1


def passed(net, roidb, names):
    """Losses and gradients of one pass on these images, and (anchors, RoIs) that count of it."""
    net.layers[0].set_roidb(roidb)
    net.layers[0]._get_next_minibatch_inds = lambda: range(len(roidb))
    net.clear_param_diffs()
    caffe.set_random_seed(1)
    np.random.seed(1)
    losses = {name: float(value) for name, value in net.forward().items()}
    net.backward()
    blobs = net.blobs
    counts = [(blobs[n].data >= 0).sum() for n in ('rpn_labels', 'labels_ohem', 'labels') if n in blobs]
    return losses, {name: net.params[name][0].diff.copy() for name in names}, counts


def mean(values, weights):
    return sum(value * weight for value, weight in zip(values, weights)) / sum(weights)


# What each loss of a pass is the mean of: of its images' losses, weighted by what number of each
BY_IMAGES, BY_ANCHORS, BY_ROIS = range(3)


@pytest.mark.parametrize(
    'lines, wanted',
    [
        (
            FROZEN.joint_train('fast_rcnn'),
            {
                'rpn_cls_score': BY_ANCHORS,
                'rpn_bbox_pred': BY_IMAGES,
                'cls_score': BY_ROIS,
                'bbox_pred': BY_ROIS,
            },
        ),
        (FROZEN.joint_train('rfcn_ohem'), {'rfcn_cls': BY_ROIS, 'rfcn_bbox': BY_IMAGES}),
    ],
    ids=['end to end', 'R-FCN'],
)
def test_a_pass_is_the_mean_of_its_images(tmp_path, lines, wanted):
    """iter_size's mean of one-image passes is the same where all give as many anchors and RoIs; these do not."""
    losses_of = {
        'rpn_cls_score': 'rpn_loss_cls',
        'rpn_bbox_pred': 'rpn_loss_bbox',
        'cls_score': 'loss_cls',
        'bbox_pred': 'loss_bbox',
        'rfcn_cls': 'loss_cls',
        'rfcn_bbox': 'loss_bbox',
    }
    roidb = roidb_of(tmp_path, [(60, 40)] * 2)
    agnostic = 'rfcn_cls' in wanted
    settings = {**SETTINGS, 'TRAIN.AGNOSTIC': agnostic, 'TRAIN.BATCH_SIZE': -1, 'TRAIN.RPN_NMS_THRESH': 0.6}
    results = []
    with overrides(settings):
        for images in 1, 2:
            cfg.TRAIN.IMS_PER_BATCH = images
            caffe.set_random_seed(3)
            wrapper = SolverWrapper(solver_file(tmp_path, lines), roidb, str(tmp_path))
            net = wrapper.solver.net
            give_statistics(net)
            for some in [roidb[:1], roidb[1:]] if images == 1 else [roidb]:
                results.append(passed(net, some, wanted))
    *alone, (losses, gradients, counts) = results
    assert [sum(numbers) for numbers in zip(*(counts for *_, counts in alone))] == counts
    anchors, rois = zip(*(row[:2] for *_, row in alone))
    assert rois[0] != rois[1]
    for name, by in wanted.items():
        weights = {BY_IMAGES: [1, 1], BY_ANCHORS: anchors, BY_ROIS: rois}[by]
        loss = losses_of[name]
        assert losses[loss] == pytest.approx(mean([row[0][loss] for row in alone], weights), rel=1e-5)
        gradient = mean([row[1][name] for row in alone], weights)
        scale = np.abs(gradient).max()
        assert scale > 0
        np.testing.assert_allclose(gradients[name] / scale, gradient / scale, atol=1e-5)


def test_two_images_a_pass_learn(tmp_path):
    """Of unlike sizes; the loss of the last passes is well below that of the first."""
    roidb = roidb_of(tmp_path, [(60, 40), (40, 56), (80, 40), (40, 40)])
    records = []

    class Keep:
        def on_step(self, loop, record):
            records.append(record)

    settings = {**SETTINGS, 'TRAIN.IMS_PER_BATCH': 2, 'TRAIN.RPN_BATCHSIZE': 64, 'TRAIN.BATCH_SIZE': 32}
    with overrides(settings):
        caffe.set_random_seed(3)
        np.random.seed(3)
        solver = solver_file(tmp_path, DETECTOR.joint_train('fast_rcnn'))
        train_net(solver, roidb, str(tmp_path / 'out'), None, 30, hooks=[Keep()])
    for name in 'rpn_loss_cls', 'loss_cls':
        losses = [record[name] for record in records]
        assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_training_on_two_images_a_pass_goes_on(tmp_path):
    roidb = roidb_of(tmp_path, [(60, 40), (40, 56), (80, 40), (40, 40), (44, 60)])
    drawn = {}

    class Watch:
        def __init__(self, name, stop=None):
            self.name, self.stop = name, stop

        def on_step(self, loop, record):
            drawn.setdefault(self.name, []).append(loop.data_layer.drawn)
            if record['iteration'] == self.stop:
                loop.checkpoint()
                raise InterruptedError

    def train(name, stop=None):
        caffe.set_random_seed(3)
        np.random.seed(3)
        args = solver_file(tmp_path, DETECTOR.rpn_train(1)), roidb, str(tmp_path / name), None, 5
        return train_net(*args, hooks=[Watch(name, stop)])[-1]

    settings = {'TRAIN.IMS_PER_BATCH': 2, 'TRAIN.RPN_BATCHSIZE': 16, 'TRAIN.BBOX_REG': False}
    with overrides({**SETTINGS, **settings}):
        whole = train('whole')
        with pytest.raises(InterruptedError):
            train('stopped', 2)
        again = train('stopped')
    assert drawn['stopped'] == drawn['whole'] and all(len(pair) == 2 for pair in drawn['whole'])
    with open(whole, 'rb') as one, open(again, 'rb') as other:
        assert one.read() == other.read()

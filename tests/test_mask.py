"""Masks: what a head is to say of a RoI, its loss, and a test net's second pass. tests/test_replay_torchvision.py holds all
of it against a recorded Mask R-CNN of torchvision."""

import math

import caffe
import numpy as np
import pytest
import torch
from layer_runs import run_layer

from fast_rcnn.config import overrides
from fast_rcnn.detection import ask
from fast_rcnn.inputs import forward, proposing_blobs, scaled_image
from fast_rcnn.parts import Parts
from fpn.boxes import FAMILIES, family_of_net
from mask.passes import box_inputs, has_masks, kept_rois, last_for_boxes, masks_of
from mask.targets import mask_targets
from netgen.files import end2end_text
from netgen.methods import DATA, IM_INFO

NETS = 'ResNet-10-FPN', 'ResNet-10'  # a pyramid, and masks on res5
GT = 'input: "gt_boxes" input_shape { dim: 1 dim: 6 } input: "gt_masks" input_shape { dim: 1 dim: 8 dim: 8 }'


# -------------------------------------------------------------------------------------------- targets
def bilinear(mask, y, x):
    y, x = (min(max(v, 0), side - 1) for v, side in zip((y, x), mask.shape))
    (top, down), (left, across) = divmod(y, 1), divmod(x, 1)
    rows, columns = (
        [(int(first), 1 - part), (min(int(first) + 1, side - 1), part)]
        for first, part, side in zip((top, left), (down, across), mask.shape)
    )
    return sum(mask[r, c] * a * b for r, a in rows for c, b in columns)


def by_loops(mask, box, size):
    """The means of a mask over points in size x size cells of a box x1 y1 x2 y2 of edges, at most a pixel apart."""
    x1, y1, x2, y2 = box
    high, wide = (y2 - y1) / size, (x2 - x1) / size
    down, across = math.ceil(high), math.ceil(wide)
    cells = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            points = [
                bilinear(mask, y1 + high * (i + (k + 0.5) / down), x1 + wide * (j + (m + 0.5) / across))
                for k in range(down)
                for m in range(across)
            ]
            cells[i, j] = np.mean(points)
    return cells


def test_targets_against_loops():
    rng = np.random.RandomState(0)
    masks = (rng.rand(3, 17, 23) > 0.5).astype(np.float32)
    boxes = [[2.0, 1.0, 20.0, 14.0], [0.3, 5.7, 8.2, 9.1], [4.0, 4.0, 4.5, 4.6], [0.0, 0.0, 22.0, 16.0]]
    objects = [2, 0, 1, 1]
    for family, last in (FAMILIES['torchvision'], 0), (FAMILIES['caffe'], 1):
        rois = torch.tensor([[9, *box] for box in boxes])  # the image's number says nothing of the object's
        found = mask_targets(rois, torch.tensor(objects), torch.from_numpy(masks), 4, family)
        for cells, box, i in zip(found, boxes, objects):
            x1, y1, x2, y2 = np.array(box) + [0, 0, last, last]
            box = [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)]  # no RoI is less than a pixel
            np.testing.assert_allclose(cells, by_loops(masks[i], box, 4), atol=1e-5)


def run_targets(tmp_path, **bottoms):
    param = r"'boxes': caffe\n'num_classes': 4\n'size': 2"
    tops = ['picks', 'rows', 'targets']
    return run_layer(tmp_path, 'mask.target_layer', 'MaskTargetLayer', tops, param, **bottoms)


def test_target_layer(tmp_path):
    """Object 1 fills the left half of its box, object 0 the lower half; a RoI that is background is left out."""
    masks = np.zeros((2, 12, 12))
    masks[0, 6:], masks[1, :, :6] = 1, 1
    box = [0, 0, 0, 11, 11]
    picks, rows, targets = run_targets(
        tmp_path, rois=[box] * 3, labels=[3, 0, 1], roi_objects=[1, 0, 0], gt_masks=masks
    )
    assert picks.tolist() == [0, 2] and rows.tolist() == [3, 4 + 1]
    assert targets.shape == (2, 1, 2, 2)
    np.testing.assert_allclose(targets[:, 0], [[[11 / 12, 1 / 12]] * 2, [[1 / 12] * 2, [1] * 2]], atol=0.1)


def test_target_layer_of_background_alone(tmp_path):
    for objects in 0, 2:
        picks, rows, targets = run_targets(
            tmp_path, rois=[[0, 0, 0, 5, 5]], labels=[0], roi_objects=[0], gt_masks=np.zeros((objects, 8, 8))
        )
        assert (picks.shape, rows.shape, targets.shape) == ((0,), (0,), (0, 1, 2, 2))


# -------------------------------------------------------------------------------------------- training
@pytest.fixture
def training(tmp_path):
    """A function of a net's name: its training net, of two images a pass, whose inputs are given by hand."""
    settings = {
        'TRAIN.HAS_RPN': True,
        'TRAIN.IMS_PER_BATCH': 2,
        'TRAIN.BATCH_SIZE': 32,
        'TRAIN.BG_THRESH_LO': 0.0,
        'TRAIN.USE_EMPTY': True,
    }

    def build(name):
        lines = end2end_text(name, 4, 'train.prototxt', masks=True).splitlines()
        inputs = f'{DATA} {IM_INFO} {GT}'
        path = tmp_path / 'train.prototxt'
        path.write_text('\n'.join(inputs if '"input-data"' in line else line for line in lines))
        caffe.set_random_seed(3)
        np.random.seed(3)
        return caffe.Net(str(path), caffe.TRAIN)

    with overrides(settings):
        yield build


BOXES = np.array([[10, 20, 60, 80, 1, 0], [30, 30, 90, 90, 2, 0], [5, 5, 50, 60, 3, 1]], np.float32)


def pass_over(net, boxes=BOXES):
    """Forward and backward; the objects' masks are the left halves of their boxes."""
    masks = np.zeros((len(boxes), 96, 128), np.float32)
    for mask, (x1, y1, x2, y2, *_) in zip(masks, boxes.astype(int)):
        mask[y1 : y2 + 1, x1 : (x1 + x2) // 2] = 1
    pictures = np.random.RandomState(0).randn(2, 3, 96, 128) * 50
    values = {'data': pictures, 'im_info': [[96, 128, 1], [96, 120, 1]], 'gt_boxes': boxes, 'gt_masks': masks}
    for name, array in values.items():
        net.blobs[name].put(np.float32(array))
    net.forward()
    net.backward()


@pytest.mark.parametrize('name', NETS)
def test_loss_is_of_the_true_class_alone(training, name):
    """By hand: the mean of - t log s - (1 - t) log(1 - s) over the cells of RoIs with an object."""
    net = training(name)
    pass_over(net)
    values = {
        blob: net.blobs[blob].data.astype(np.float64) for blob in ('mask_score', 'mask_targets', 'labels')
    }
    labels = values['labels'][values['labels'] > 0].astype(int)
    assert len(set(labels)) > 1 and len(labels) == values['mask_score'].shape[0]
    own = np.arange(len(labels)), labels
    s, t = 1 / (1 + np.exp(-values['mask_score'][own])), values['mask_targets'][:, 0]
    assert t.shape == s.shape and 0.2 < t.mean() < 0.8
    loss = -(t * np.log(s) + (1 - t) * np.log(1 - s)).mean()
    assert net.blobs['loss_mask'].data == pytest.approx(loss, rel=1e-4)
    wanted = np.zeros(values['mask_score'].shape)
    wanted[own] = (s - t) / t.size
    np.testing.assert_allclose(net.blobs['mask_score'].diff, wanted, atol=1e-7)
    assert net.params['mask_deconv'][0].diff.any()


@pytest.mark.parametrize('name', NETS)
def test_images_without_objects_train_no_masks(training, name):
    net = training(name)
    pass_over(net, BOXES[:0])
    assert net.blobs['loss_mask'].data == 0 and net.blobs['mask_targets'].shape[0] == 0
    assert not net.params['mask_score'][0].diff.any() and net.params['cls_score'][0].diff.any()
    pass_over(net, BOXES[2:])  # one of two images has an object
    assert net.blobs['loss_mask'].data > 0 and net.params['mask_score'][0].diff.any()


def test_masks_learn(training):
    """A few steps of gradient descent on one pair of images."""
    net, losses = training('ResNet-10-FPN'), []
    for _ in range(8):
        np.random.seed(3)
        net.clear_param_diffs()
        pass_over(net)
        losses.append(float(net.blobs['loss_mask'].data))
        for name in net.params:
            if name.startswith('mask'):
                for blob in net.params[name]:
                    blob.data[...] -= 0.05 * blob.diff
    assert losses[-1] < 0.7 * losses[0]


# -------------------------------------------------------------------------------------------- testing
@pytest.fixture
def testing(tmp_path):
    """A function of a net's name: its test net, with statistics under which what it says differs from RoI to RoI."""

    def build(name):
        path = tmp_path / 'test.prototxt'
        path.write_text(end2end_text(name, 4, 'test.prototxt', masks=True))
        caffe.set_random_seed(3)
        net = caffe.Net(str(path), caffe.TEST)
        for params, layer in zip(net.params.values(), net.params):
            if layer.startswith('bn'):
                params[1].data[...], params[2].data[...] = 100, 1
        return net

    with overrides({'TEST.HAS_RPN': True, 'TEST.SCALES': [96], 'TEST.MAX_SIZE': 200}):
        yield build


def pictures():
    rng = np.random.RandomState(1)
    return [rng.randint(0, 255, (*size, 3)).astype(np.uint8) for size in ((48, 64), (60, 70))]


@pytest.mark.parametrize('name', NETS)
def test_second_pass(testing, name):
    """Two images' boxes masked together are masked as each alone; the RoI of a box has the mask that one pass would give."""
    net, ims = testing(name), pictures()
    family = family_of_net(net)
    images = [scaled_image(im, family) for im in ims]
    forward(net, proposing_blobs(images, family))
    boxes = [np.array([[3, 4, 40, 40], [20, 10, 60, 44.0]]), np.array([[0, 0, 69, 59.0]])]
    rois = [kept_rois(mine, i, image, family) for i, (mine, image) in enumerate(zip(boxes, images))]
    assert rois[0].tolist() == [[0, 6, 8, 80, 80], [0, 40, 20, 120, 88]]
    assert rois[1][0, 0] == 1 and rois[1][0, 3] == pytest.approx(69 * 1.6)
    masks = masks_of(net, np.concatenate(rois), [1, 3, 2])()
    cells = net.blobs['mask_prob'].shape[2]
    assert masks.shape == (3, cells, cells) and masks.min() >= 0 and masks.max() <= 1 and masks.std() > 1e-3
    scores = 1 / (1 + np.exp(-net.blobs['mask_score'].data[[0, 1, 2], [1, 3, 2]]))
    np.testing.assert_allclose(masks, scores, atol=1e-6)
    np.testing.assert_allclose(masks_of(net, rois[1], [2])(), masks[2:], atol=1e-5)
    kept = masks_of(net, rois[0], [1, 3])
    masks_of(net, rois[1], [2])
    np.testing.assert_allclose(kept(), masks[:2], atol=1e-5)  # whatever the net has done since
    assert masks_of(net, rois[0][:0], [])().shape == (0, cells, cells)


@pytest.mark.parametrize('name', NETS)
def test_first_pass_leaves_masks_alone(testing, name):
    net = testing(name)
    last = last_for_boxes(net)
    assert has_masks(net) and box_inputs(net) == ['data', 'im_info']
    assert all(('mask' in layer) == (i > last) for i, layer in enumerate(net.bottom_names))
    parts = Parts(net)
    assert max(parts.proposing + parts.maps + parts.pooling + parts.outputs) == last
    (answer,) = ask(net, [scaled_image(pictures()[0], family_of_net(net))])()
    assert np.isfinite(answer.scores).all() and len(answer.scores) > 1
    assert net.blobs['mask_prob'].shape[0] == 1  # as the net began


def test_a_net_without_masks_has_one_pass(tmp_path):
    (tmp_path / 'n').write_text(
        'input: "data" input_shape { dim: 1 } layer { name: "r" type: "ReLU" bottom: "data" top: "t" }'
    )
    net = caffe.Net(str(tmp_path / 'n'), caffe.TEST)
    assert not has_masks(net) and last_for_boxes(net) is None and box_inputs(net) == ['data']


def test_masks_in_half_precision(testing):
    ims, found = pictures(), []
    for precision in 'float32', 'bf16':
        caffe.set_precision(precision)
        net = testing('ResNet-10-FPN')
        family = family_of_net(net)
        forward(net, proposing_blobs([scaled_image(ims[0], family)], family))
        found.append(masks_of(net, np.float32([[0, 6, 8, 80, 80]]), [1])())
        assert found[-1].dtype == np.float32
    caffe.set_precision('float32')
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1

"""Nets that judge regions beside their whole image."""

import caffe
import numpy as np
import pytest
from test_detect import image
from test_models import END2END, SMALL, roidb  # noqa: F401 (a fixture)

from fast_rcnn.config import overrides
from fast_rcnn.context_layer import ContextLayer
from fast_rcnn.detection import im_detect, ims_detect
from fast_rcnn.parts import Parts
from fast_rcnn.train import plain_predictions
from netgen.files import files
from roi_data_layer.roidb import add_bbox_regression_targets

SETTINGS = {
    'TEST.HAS_RPN': True,
    'TEST.SCALES': [100],
    'TEST.RPN_POST_NMS_TOP_N': 6,
    'TEST.RPN_MIN_SIZE': 4,
    'TEST.RPN_NMS_THRESH': 0.95,
}
NETS = 'ResNet-10', 'ResNet-10-FPN'


@pytest.fixture
def make(tmp_path):
    """A function that gives a net of one of the generator's files, of three classes."""

    def made(net, name, phase=caffe.TEST, classes=3):
        texts = files('own', net, classes, tmp_path)
        path = next(path for path in texts if path.parts[-2:] == ('faster_rcnn_end2end', name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path])
        caffe.set_random_seed(3)
        return caffe.Net(str(path), phase)

    return made


def loud(net):
    """Answers that differ from region to region, in layers that a net begins with small weights."""
    random = np.random.RandomState(5)
    for name, blobs in net.params.items():
        if name.startswith('bn'):
            blobs[1].data[...] = 1e5 if name == 'bn_conv1' else 1  # variances
            blobs[2].data[...] = 1
    for name in 'cls_score', 'bbox_pred', 'cls_score_image', 'bbox_pred_image':
        if name in net.params:
            weights = net.params[name][0].data
            weights[...] = random.randn(*weights.shape) * (0.2 if 'score' in name else 0.02)
    return net


@pytest.mark.parametrize('name', NETS)
def test_a_plain_nets_weights_start_a_net_with_context_with_equal_answers(make, tmp_path, name):
    plain, ours = (make(net, 'test.prototxt') for net in (name, f'{name}-Context'))
    loud(plain)
    plain.save(str(tmp_path / 'plain.caffemodel'))
    ours.copy_from(str(tmp_path / 'plain.caffemodel'))
    with overrides({**SETTINGS, 'TEST.SVM': True}):
        wanted, found = im_detect(plain, image()), im_detect(ours, image())
    assert np.ptp(wanted[0][:, 1]) > 1e-3
    for values, same in zip(wanted, found, strict=True):
        np.testing.assert_allclose(same, values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NETS)
def test_answers_are_products_of_a_region_and_its_image_in_a_row(make, name):
    """Of two images: by what the plain net says of regions, and of the whole of what is seen as a region."""
    plain, ours = loud(make(name, 'test.prototxt')), loud(make(f'{name}-Context', 'test.prototxt'))
    plain.share_with(ours)
    with overrides(SETTINGS):
        ims_detect(ours, [image(), 255 - image()])
        ims_detect(plain, [image(), 255 - image()])
    top = 'pool5' if name == 'ResNet-10' else 'fc7'
    rois, regions = plain.blobs['rois'].data.copy(), plain.blobs[top].data.copy()
    height, width = plain.blobs['data'].shape[2:]
    plain.blobs['rois'].put(np.float32([[i, 0, 0, width - 1, height - 1] for i in range(2)]))
    parts = Parts(plain)
    parts.run(parts.pooling)
    images = plain.blobs[top].data[rois[:, 0].astype(int)]
    rows = np.hstack([values.reshape(len(rois), -1) for values in (regions, images)])
    for answer in 'cls_score', 'bbox_pred':
        (weights, bias), (of_image,) = ours.params[answer], ours.params[f'{answer}_image']
        wanted = rows @ np.hstack([weights.data, of_image.data]).T + bias.data
        np.testing.assert_allclose(ours.blobs[answer].data, wanted, rtol=1e-3, atol=1e-4)


def test_regions_with_context_are_looked_at_again(make):
    net = loud(make('ResNet-10-Context', 'test.prototxt'))
    assert Parts(net).features == ['pool5_image', 'pool5_region']
    more = {'TEST.REFINE': 1, 'TEST.FLIP': True, 'TEST.REGION_SCALES': [80, 100]}
    with overrides({**SETTINGS, **more}):
        scores, boxes = im_detect(net, image())
    with overrides(SETTINGS):
        assert len(scores) == len(boxes) == 2 * len(im_detect(net, image())[0])
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_it_learns_end_to_end(make, roidb):  # noqa: F811
    with overrides({**SMALL, **END2END}):
        net = make('ResNet-10-Context', 'train.prototxt', caffe.TRAIN, classes=201)
        add_bbox_regression_targets(roidb)
        net.layers[0].set_roidb(roidb)
        net.forward()
        net.backward()
    assert np.abs(net.params['cls_score_image'][0].diff).max() > 0
    assert {name for name in net.params if name.endswith('_image')} == {'cls_score_image', 'bbox_pred_image'}
    trained = [net.layer_dict[name].layer_param for name in ('cls_score', 'cls_score_image')]
    assert [[spec.lr_mult for spec in layer.param] for layer in trained] == [[1, 2], [1]]
    weights = net.params['bbox_pred_image'][0].data
    weights[...] = 1
    with plain_predictions(net, {'bbox_pred_image': (np.ones(804), np.arange(804.0))}):
        np.testing.assert_array_equal(net.params['bbox_pred_image'][0].data[:, 0], np.arange(804))
    assert (net.params['bbox_pred_image'][0].data == 1).all()


def test_the_layer():
    bottom = [caffe.blob.Blob(3, 5), caffe.blob.Blob(2, 3, 10, 20)]
    bottom[0].data[...] = [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [1, 0, 0, 1, 1]]
    for family, edge in ('caffe', [0, 0, 19, 9]), ('torchvision', [0, 0, 20, 10]):
        layer, top = ContextLayer.__new__(ContextLayer), [caffe.blob.Blob(1) for _ in range(3)]
        layer.param_str = f"'boxes': {family}"
        layer.setup(bottom, top)
        layer.forward(bottom, top)
        np.testing.assert_array_equal(top[0].data[:3], bottom[0].data)
        np.testing.assert_array_equal(top[0].data[3:], [[0, *edge], [1, *edge]])
        assert top[1].data.tolist() == [0, 1, 2] and top[2].data.tolist() == [4, 3, 4]

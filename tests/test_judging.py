"""Regions judged by several looks, against loops that look at each by itself."""

import os
from dataclasses import replace

import caffe
import numpy as np
import pytest
from test_detect import NET, image
from tool_runs import RECORDED, VAL, run_main, settings, tiny as tiny_files, tool

from fast_rcnn.config import overrides
from fast_rcnn.detection import ask, best, im_detect, ims_detect, voted
from fast_rcnn.ensemble import Ensemble
from fast_rcnn.inputs import looked_at_image
from fast_rcnn.judging import suiting
from fast_rcnn.parts import Parts
from mask.passes import masks_of
from netgen.backbones import BACKBONES
from netgen.files import files
from nms.voting import vote

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'golden', 'e2e')
PROPOSING = {'HAS_RPN': True, 'SCALES': [120], 'RPN_POST_NMS_TOP_N': 9}
GIVEN = {'SCALES': [80]}
BOXES = np.array([[0, 0, 9, 9], [30, 10, 49, 29], [5, 3, 40, 33]], np.float32)


def under(base, **test):
    return overrides(
        {**{f'TEST.{key}': value for key, value in {**base, **test}.items()}, 'DEDUP_BOXES': 0.0}
    )


@pytest.fixture
def tiny(monkeypatch):
    """A recorded net that proposes."""
    monkeypatch.chdir(GOLDEN)
    prototxt = 'models/Tiny/faster_rcnn_alt_opt/faster_rcnn_test.pt'
    return caffe.Net(prototxt, 'stage2_fast_rcnn.caffemodel', caffe.TEST)


@pytest.fixture
def make(tmp_path):
    """A function that gives nets that judge given boxes: class 1's dx and score by the seed's weights on colours."""
    (tmp_path / 'net.prototxt').write_text(NET)

    def made(seed=0):
        net, random = caffe.Net(str(tmp_path / 'net.prototxt'), caffe.TEST), np.random.RandomState(seed)
        net.params['cls_score'][0].data[...] = random.randn(2, 3) / 50
        net.params['bbox_pred'][0].data[...] = random.randn(8, 3) / 2000
        return net

    return made


def mirrored(boxes, width):
    boxes = boxes.reshape(-1, 4)
    left = np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], 1)
    return left.astype(np.float32)


def test_a_net_in_parts(tiny):
    parts, names = Parts(tiny), tiny._layer_names
    assert [names[i] for i in parts.pooling] == [
        'roi_pool',
        'res5',
        'bn_res5',
        'scale_res5',
        'res5_relu',
        'pool5',
    ]
    assert [names[i] for i in parts.outputs] == ['cls_score', 'bbox_pred', 'cls_prob']
    assert (parts.boundary, parts.features) == (['res4'], ['pool5'])
    assert names[parts.maps[-1]] == 'res4_relu' and names[parts.proposing[-1]] == 'proposal'
    with pytest.raises(
        ValueError, match="'.*' judges no regions: it has no blob cls_prob and no blob bbox_pred"
    ):
        Parts(caffe.Net('models/Tiny/faster_rcnn_alt_opt/rpn_test.pt', caffe.TEST))


def test_refined_regions_are_those_that_the_first_answers_give_and_the_maps_are_not_made_again(tiny):
    im, ran = image(), []
    with under(PROPOSING):
        scores, boxes = im_detect(tiny, im)
    tiny.after_forward(ran.append)
    with under(PROPOSING, REFINE=2):
        all_scores, all_boxes = im_detect(tiny, im)
    assert ran.count(tiny._layer_names.index('res4')) == 1 and ran.count(len(tiny.layers) - 1) == 3
    assert len(all_scores) == 3 * len(scores)
    np.testing.assert_allclose(all_scores[:9], scores, atol=1e-5)
    np.testing.assert_allclose(all_boxes[:9], boxes, atol=1e-4)
    for first in (
        0,
        9,
    ):  # each region is given the box of its best class, which a net of given boxes then judges
        rows = slice(first, first + 9)
        at = all_scores[rows, 1:].argmax(1) + 1
        given = np.array([row[4 * k : 4 * k + 4] for row, k in zip(all_boxes[rows], at)])
        judge = caffe.Net('models/Tiny/faster_rcnn_alt_opt/fast_rcnn_test.pt', caffe.TEST)
        judge.copy_from('stage2_fast_rcnn.caffemodel')
        with under({'SCALES': [120]}):
            scores, boxes = im_detect(judge, im, given)
        np.testing.assert_allclose(all_scores[first + 9 : first + 18], scores, atol=1e-5)
        np.testing.assert_allclose(all_boxes[first + 9 : first + 18], boxes, atol=1e-3)


def test_refinement_of_several_images_in_a_pass_is_that_of_each(make):
    net, ims, boxes = make(), [image(), image(60, 20), image()], [BOXES, BOXES[:1], BOXES[:0]]
    with under(GIVEN, REFINE=1, FLIP=True, REGION_SCALES=[60, 80, 100], REGION_SIDE=40.0):
        together = ims_detect(net, ims, boxes)
        alone = [im_detect(net, im, of_image) for im, of_image in zip(ims, boxes)]
    for ours, theirs, of_image in zip(together, alone, boxes, strict=True):
        for values, wanted in zip(ours, theirs, strict=True):
            assert len(values) == 2 * len(of_image)
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-4)


def test_mirrored_looks_are_averaged(make):
    net, im = make(), image()
    with under(GIVEN):
        scores, boxes = im_detect(net, im, BOXES)
        theirs, their_boxes = im_detect(net, np.ascontiguousarray(im[:, ::-1]), mirrored(BOXES, 60))
    with under(GIVEN, FLIP=True):
        found, found_boxes = im_detect(net, im, BOXES)
    np.testing.assert_allclose(found, (scores + theirs) / 2, atol=1e-5)
    back = mirrored(their_boxes, 60).reshape(boxes.shape)
    np.testing.assert_allclose(found_boxes, (boxes + back) / 2, atol=1e-3)


def test_features_are_the_largest_of_two_adjacent_scales(make):
    net, im, scales = make(), image(), [40, 80, 160]
    pairs = (1, 2), (1, 2), (0, 1)  # about 45 pixels, of sides of 10, 20 and 33 at factors 1, 2, 4
    pooled = []
    for short in scales:
        with under({'SCALES': [short], 'MAX_SIZE': 240}):
            im_detect(net, im, BOXES)
            pooled.append(net.blobs['pool'].data.reshape(3, 3).copy())
    pooled = np.array([np.maximum(pooled[a][i], pooled[b][i]) for i, (a, b) in enumerate(pairs)])
    logits = pooled @ net.params['cls_score'][0].data.T
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with under({'SCALES': [80], 'MAX_SIZE': 120}, REGION_SCALES=scales, REGION_SIDE=45.0):
        scores, _ = im_detect(net, im, BOXES)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)


@pytest.mark.parametrize('merge', ['mean', 'nearest'])
def test_scores_of_the_scales_that_suit_a_region(make, merge):
    net, im, found = make(), image(), []
    for short in 40, 80, 160:
        with under({'SCALES': [short], 'MAX_SIZE': 240}):
            found.append(im_detect(net, im, BOXES))
    at = {'mean': [(1, 2), (1, 2), (0, 1)], 'nearest': [(2,), (1,), (0,)]}[merge]
    scales = {'REGION_SCALES': [160, 40, 80], 'REGION_SIDE': 45.0, 'REGION_MERGE': merge}
    with under({'SCALES': [80], 'MAX_SIZE': 120}, **scales):
        ours = im_detect(net, im, BOXES)
    for k, values in enumerate(ours):
        wanted = [np.mean([found[s][k][i] for s in scales], 0) for i, scales in enumerate(at)]
        np.testing.assert_allclose(values, wanted, atol=1e-4)


def test_scales_that_suit_a_region():
    sides = np.array([[10, 100, 400], [20, 200, 800], [40, 400, 1600]])
    assert suiting(sides, 'maxout').T.tolist() == [
        [False, True, True],
        [False, True, True],
        [True, True, False],
    ]
    assert suiting(sides, 'nearest').argmax(0).tolist() == [2, 1, 0]
    assert suiting(sides[:1], 'maxout').all()


def test_proposals_of_all_scales_are_joined(tiny):
    im = image()
    alone = []
    for short in 90, 120:
        with under(PROPOSING, SCALES=[short], MAX_SIZE=1000 * short // 120):
            alone.append(im_detect(tiny, im)[1][:, :4])
    scales = {'REGION_SCALES': [90, 120], 'REGION_MERGE': 'nearest'}
    with under(PROPOSING, BBOX_REG=False, **scales):
        (one,) = ask(tiny, [looked_at_image(im)])()
        with under({}, JOIN_PROPOSALS=True):
            (joined,) = ask(tiny, [looked_at_image(im)])()
    assert len(one.scores) == 9 and len(joined.scores) == 18
    np.testing.assert_allclose(joined.boxes()[9:], one.boxes(), atol=1e-4)


def test_an_ensemble_averages_what_its_nets_say_of_all_their_proposals(make):
    one, two, im = make(1), make(2), image()
    with under(GIVEN):
        answers = [im_detect(net, im, BOXES) for net in (one, two)]
        ours = im_detect(Ensemble([one, two]), im, BOXES)
    for values, *wanted in zip(ours, *answers):
        np.testing.assert_allclose(values, np.mean(wanted, 0), atol=1e-4)


def test_an_ensemble_of_nets_that_propose(tiny):
    with under(PROPOSING):
        scores, boxes = im_detect(tiny, image())
        other = caffe.Net('models/Tiny/faster_rcnn_alt_opt/faster_rcnn_test.pt', caffe.TEST)
        other.share_with(tiny)
        found, moved = im_detect(Ensemble([tiny, other]), image())
    for half in slice(9), slice(9, 18):
        np.testing.assert_allclose(found[half], scores, atol=1e-5)
        np.testing.assert_allclose(moved[half], boxes, atol=1e-3)


def test_test_net_asks_several_nets_as_one(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr('fast_rcnn.test.test_net', lambda net, data, **more: asked.append((net, more)))
    net = tiny_files('faster_rcnn_test.pt', 'stage2_fast_rcnn')
    words = [*net, '--imdb', VAL, '--also', net[3], RECORDED / 'stage1_fast_rcnn.caffemodel']
    run_main(monkeypatch, tool('test_net').main, *words, *settings(tmp_path, 'TEST.HAS_RPN', True))
    ((ensemble, more),) = asked
    assert ensemble.name == 'stage2_fast_rcnn+stage1_fast_rcnn' and more == {
        'max_per_image': None,
        'vis': False,
    }
    first, second = (net.params['cls_score'][0].data for net in ensemble.nets)
    assert np.abs(first - second).max() > 0 and len(ensemble.layers) == 2 * len(ensemble.nets[0].layers)


def test_what_cannot_be_asked_is_named(make, tmp_path):
    net, im = make(), image()
    with pytest.raises(ValueError, match='wanted different nets'):
        Ensemble([net, net])
    with (
        under(GIVEN, REFINE=1, BBOX_REG=False),
        pytest.raises(ValueError, match='REFINE .* wants TEST.BBOX_REG'),
    ):
        im_detect(net, im, BOXES)
    with (
        under(GIVEN, REGION_SCALES=[80, 90], REGION_MERGE='sum'),
        pytest.raises(ValueError, match="maxout.*'sum'"),
    ):
        im_detect(net, im, BOXES)
    wide = NET.replace('num_output: 2', 'num_output: 3')
    (tmp_path / 'wide.prototxt').write_text(wide)
    ensemble = Ensemble([net, caffe.Net(str(tmp_path / 'wide.prototxt'), caffe.TEST)])
    with under(GIVEN), pytest.raises(ValueError, match='as many scores'):
        im_detect(ensemble, im, BOXES)
    voting = '\n'.join(line for line in NET.splitlines() if 'inner_product_param' not in line)
    voting = voting.replace(
        'type: "InnerProduct" bottom: "pool" top: "cls_score"',
        'type: "ReLU" bottom: "pool" top: "cls_score" }',
    )
    voting = voting.replace(
        'type: "InnerProduct" bottom: "pool" top: "bbox_pred"',
        'type: "ReLU" bottom: "pool" top: "bbox_pred" }',
    )
    (tmp_path / 'voting.prototxt').write_text(voting)
    plain = caffe.Net(str(tmp_path / 'voting.prototxt'), caffe.TEST)
    assert Parts(plain).features == []
    with (
        under(GIVEN, REGION_SCALES=[80, 90]),
        pytest.raises(ValueError, match="no features of regions.*'mean'"),
    ):
        im_detect(plain, im, BOXES)


def moderate(net):
    """A net from nothing whose answers are moderate."""
    for name, blobs in net.params.items():
        if name.startswith('bn'):
            blobs[1].data[...], blobs[2].data[...] = 1e5 if name == 'bn_conv1' else 1, 1
    return net


def test_a_cascade_is_asked_again_but_has_no_features_to_merge(tmp_path):
    texts = files('own', 'ResNet-10-FPN-Cascade', 3, tmp_path)
    path = next(path for path in texts if path.parts[-2:] == ('faster_rcnn_end2end', 'test.prototxt'))
    path.parent.mkdir(parents=True)
    path.write_text(texts[path])
    net = moderate(caffe.Net(str(path), caffe.TEST))
    parts = Parts(net)
    assert parts.features == parts.outputs == [] and 'im_info' in parts.boundary
    with under(PROPOSING):
        scores, _ = im_detect(net, image())
    with under(PROPOSING, REFINE=1, REGION_SCALES=[100, 120], REGION_MERGE='mean'):
        assert len(im_detect(net, image())[0]) == 2 * len(scores)


@pytest.mark.parametrize('boxes', ['caffe', 'detnet', 'torchvision', 'tensorpack', 'detectron'])
def test_every_family_of_boxes_is_looked_at_as_by_the_plain_pass(tmp_path, boxes):
    row = replace(BACKBONES['ResNet-10-FPN'], boxes=boxes)
    texts = files('own', 'ResNet-10-FPN', 3, tmp_path, masks=False, backbone=row)
    path = next(path for path in texts if path.parts[-2:] == ('faster_rcnn_end2end', 'test.prototxt'))
    path.parent.mkdir(parents=True)
    path.write_text(texts[path])
    caffe.set_random_seed(3)
    net, random = moderate(caffe.Net(str(path), caffe.TEST)), np.random.RandomState(0)
    for name in 'cls_score', 'bbox_pred':
        net.params[name][0].data[...] = random.randn(*net.params[name][0].shape) / 50
    with under(PROPOSING, SVM=True):
        scores, moved = im_detect(net, image(41, 63))
        with under({}, REGION_SCALES=[120]):
            same, same_moved = im_detect(net, image(41, 63))
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(same, scores, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(same_moved, moved, atol=0.5)


def test_masks_are_made_of_the_maps_of_the_image_as_it_was_proposed_for(tmp_path):
    texts = files('own', 'ResNet-10-FPN', 3, tmp_path, masks=True)
    path = next(path for path in texts if path.name == 'test.prototxt')
    path.parent.mkdir(parents=True)
    path.write_text(texts[path])
    net, found = moderate(caffe.Net(str(path), caffe.TEST)), []
    for more in {}, {'REFINE': 1, 'FLIP': True, 'REGION_SCALES': [90, 120]}:
        with under(PROPOSING, **more):
            im_detect(net, image())
        rois = np.float32([[0, 5, 5, 60, 70], [0, 20, 20, 40, 50]])
        found.append(masks_of(net, rois, np.array([1, 2]))())
    assert np.ptp(found[0]) > 1e-3
    np.testing.assert_allclose(*found, atol=1e-5)
    with pytest.raises(ValueError, match='nets with masks are asked alone'):
        Ensemble([net])


def test_a_detection_is_moved_to_the_mean_of_those_that_overlap_it():
    dets = np.array([[0, 0, 9, 9, 0.6], [0, 0, 9, 8, 0.3], [40, 40, 49, 49, 0.5]], np.float32)
    kept = dets[[0, 2]]
    overlaps = np.array([[1, 0.9, 0], [0, 0, 1]])
    moved = vote(kept, dets, 0.5, overlaps)
    np.testing.assert_allclose(moved, [[0, 0, 9, 9 * 2 / 3 + 8 / 3, 0.6], [40, 40, 49, 49, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(vote(kept, dets, 0.95, overlaps), kept)
    with under({}, VOTE=0.85):
        np.testing.assert_allclose(voted(kept, dets), moved, rtol=1e-6)
    with under({}, VOTE=0.95):
        np.testing.assert_array_equal(voted(kept, dets), kept)
    with pytest.raises(ValueError, match='weighs by scores of 0 to 1; got -0.6'):
        vote(kept, dets * [1, 1, 1, 1, -1], 0.5, overlaps)


@pytest.mark.parametrize('soft', ['', 'linear'])
def test_voting_of_all_classes(soft):
    random = np.random.RandomState(0)
    scores, boxes = (
        random.rand(60, 3).astype(np.float32),
        np.tile(random.rand(60, 1) * 9, (1, 4)) + [0, 0, 20, 20],
    )
    boxes = boxes.astype(np.float32)
    how = {'SOFT_NMS': soft, 'NMS': 0.5}
    with under({}, **how):
        plain, classes = best(scores, lambda rows, k: boxes[rows], 0, 0.1)
    with under({}, VOTE=0.7, **how):
        found, same = best(scores, lambda rows, k: boxes[rows], 0, 0.1)
    np.testing.assert_array_equal(classes, same)
    np.testing.assert_array_equal(plain[:, 4], found[:, 4])
    with under({}, VOTE=0.7):
        for k in 1, 2:
            dets = np.hstack([boxes, scores[:, k : k + 1]])[scores[:, k] > 0.1]
            np.testing.assert_allclose(found[same == k], voted(plain[same == k], dets), atol=1e-5)
    assert np.abs(found - plain).max() > 0.1

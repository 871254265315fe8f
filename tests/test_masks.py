"""Masks: from annotation files in any form, through whatever is done to images, into the blob gt_masks."""

import json
import os
import pickle

import check_dataset
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devkits import coco_object
from layer_runs import one_layer_net
from test_coco import data, kit, zoo  # noqa: F401

import cv2
import make_toy
from datasets import own
from datasets.readers import coco as coco_reader
from datasets.readers import masks
from datasets.joined import joined
from datasets.record import Record
from fast_rcnn.config import cfg, overrides
from fast_rcnn.masks import packed, pasted, unpacked
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from roi_data_layer.layer import room_for
from roi_data_layer.looks import Look, draw_looks, seen_masks
from roi_data_layer.minibatch import get_minibatch

RECORDED = os.path.join(os.path.dirname(__file__), '../../shared/golden/torchvision/recorded.npz')
RPN = {'TRAIN.HAS_RPN': True, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BBOX_REG': False, 'TRAIN.MAX_SIZE': 4000}
TOPS = ['data', 'im_info', 'gt_boxes', 'gt_masks']


def runs_of(mask):
    """Run lengths down the columns, of 0 first, by a plain loop."""
    runs, value = [0], 0
    for pixel in mask.ravel('F').tolist():
        if pixel != value:
            runs, value = [*runs, 0], pixel
        runs[-1] += 1
    return runs


def rectangle(x1, y1, x2, y2):
    """The polygon of the pixels of a box, which includes its last ones."""
    return [x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1]


def box_mask(height, width, x1, y1, x2, y2):
    mask = np.zeros((height, width), np.uint8)
    mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return mask


# ------------------------------------------------------------------------------------------- forms of masks
def test_all_forms_give_one():
    """Of masks drawn by chance: numbers, code as text and as bytes."""
    random = np.random.default_rng(0)
    for i in range(60):
        height, width = random.integers(1, 40, 2).tolist()
        mask = (random.random((height, width)) < random.random()).astype(np.uint8)
        mask = mask if i % 4 else np.full_like(mask, i % 8 // 4)
        size, runs = [height, width], runs_of(mask)
        wanted = coco_mask.encode(np.asfortranarray(mask))
        code = wanted['counts']
        assert masks.decoded_counts(code).tolist() == runs
        for counts in runs, np.array(runs, float), code, code.decode():
            assert masks.rle_of({'size': size, 'counts': counts}, height, width) == (wanted, [])
        assert (
            masks.decoded([wanted, {'size': size, 'counts': runs}], height, width) == mask[..., None]
        ).all()


def test_polygons_are_one_mask_together():
    """Two that meet in a pixel, one around a hole of another object, and one without a list around it."""
    found = masks.decoded([[rectangle(1, 1, 3, 3), rectangle(3, 3, 5, 4)], rectangle(0, 0, 9, 5)], 6, 10)
    assert (found[..., 0] == box_mask(6, 10, 1, 1, 3, 3) | box_mask(6, 10, 3, 3, 5, 4)).all()
    assert found[..., 1].all() and masks.decoded([], 6, 10).shape == (6, 10, 0)


@pytest.mark.parametrize(
    'segmentation, text',
    [
        (None, 'has no mask'),
        ([], 'has no mask'),
        ([[1, 1, 5, 5]], 'polygon 1 has 2 points, fewer than 3'),
        ([[1, 1, 5, 5, 2]], 'polygon 1 has 5 numbers, which are no pairs'),
        ([[1, 1, 5, 5, 2, float('nan')]], 'polygon 1 has a coordinate that is no number below 100000'),
        ([[1, 1, 5, 5, 2, 1e9]], 'polygon 1 has a coordinate that is no number below 100000'),
        ([['a', 'b']], "polygon 1 is none: ['a', 'b']"),
        ([{'x': 1}], "polygon 1 is none: {'x': 1}"),
        ('mask.png', 'mask.png is no mask'),
        (
            {'size': [4, 5], 'counts': [3, 16]},
            'broken run lengths: they are of 19 pixels, of which the image has 20',
        ),
        ({'size': [4, 5], 'counts': [30, -10]}, 'broken run lengths: they are of 20 pixels, of which'),
        ({'size': [5, 4], 'counts': [20]}, 'run lengths of size [5, 4], wanted [4, 5]'),
        ({'counts': [20]}, 'run lengths of size None, wanted [4, 5]'),
        ({'size': [4, 5], 'counts': [2.5, 17.5]}, 'run lengths that are no whole numbers'),
        ({'size': [4, 5]}, 'run lengths that are no whole numbers'),
        ({'size': [4, 5], 'counts': 'P'}, 'broken run lengths: this is no code of any'),
        ({'size': [4, 5], 'counts': '\x01'}, 'broken run lengths: this is no code of any'),
        ({'size': [4, 5], 'counts': 'oooooooooo0'}, 'broken run lengths: a number of more than 45 bits'),
        ({'size': [4, 5], 'counts': ''}, 'broken run lengths: they are of 0 pixels'),
    ],
)
def test_what_is_no_mask_says_why(segmentation, text):
    for form in segmentation, masks.compact(segmentation):
        rle, faults = masks.rle_of(form, 4, 5)
        assert rle is None and len(faults) == 1 and faults[0].startswith(text[:40])
    with pytest.raises(ValueError, match='.'):
        masks.decoded([segmentation], 4, 5)


def test_of_several_polygons_those_that_can_be_used_count():
    rle, faults = masks.rle_of([[1, 1, 5, 5], rectangle(1, 1, 2, 2)], 6, 10)
    assert faults == ['polygon 1 has 2 points, fewer than 3']
    assert (coco_mask.decode(rle) == box_mask(6, 10, 1, 1, 2, 2)).all()


# --------------------------------------------------------------------------------------------------- files
def test_a_files_masks_follow_its_boxes(data, tmp_path):  # noqa: F811
    """Crowds, boxes that are left out, annotations out of order: each object has its own mask, in all forms."""
    size = [40, 60]
    runs = {'size': size, 'counts': runs_of(box_mask(*size, 30, 20, 41, 25))}
    coded = coco_mask.encode(np.asfortranarray(box_mask(*size, 1, 2, 8, 5)))
    coded = {'size': size, 'counts': coded['counts'].decode()}
    images = {
        'a.jpg': (
            60,
            40,
            [
                coco_object(1, 70, 50, 5, 5, segmentation=[rectangle(70, 50, 75, 55)]),  # outside
                coco_object(1, 0, 0, 60, 40, iscrowd=1, segmentation={'size': size, 'counts': [0, 2400]}),
                coco_object(3, 10, 5, 6, 7, segmentation=[rectangle(10, 5, 15, 11)]),
                coco_object(90, 30, 20, 12, 6, segmentation=runs),
            ],
        ),
        'b.jpg': (60, 40, []),
        'c.jpg': (60, 40, [coco_object(3, 1, 2, 8, 4, segmentation=coded)]),
    }
    db = zoo(tmp_path, images=images)
    first, empty, last = db.roidb
    assert [len(entry['segms']) for entry in db.roidb] == [2, 0, 1]
    for entry in first, last, pickle.loads(pickle.dumps(first)), first.mirrored():
        found = masks.decoded(entry['segms'], *size)
        for mask, (x1, y1, x2, y2) in zip(np.moveaxis(found, 2, 0), entry.objects.astype(int)):
            assert (mask == box_mask(*size, x1, y1, x2, y2)).all()
    assert empty['segms'] == []
    proposed = first.with_proposals(np.array([[1, 1, 2, 2]], np.float32))
    assert proposed['segms'][2] is None and len(proposed['segms']) == 3


def test_masks_are_read_when_they_are_asked_for(data, tmp_path, monkeypatch):  # noqa: F811
    db = zoo(tmp_path, images={'a.jpg': (60, 40, [coco_object(3, 1, 2, 8, 4)])})
    (entry,) = db.roidb
    assert 'segms' not in list(entry) and dict(entry)['gt_classes'].tolist() == [2]
    pickle.loads(pickle.dumps(entry))
    with pytest.raises(ValueError, match='all.json: no annotation has a mask'):
        entry['segms']


def test_boxes_stand_for_masks_that_cannot_be_used(data, tmp_path, caplog):  # noqa: F811
    objects = [coco_object(3, 1, 2, 8, 4, segmentation=[rectangle(1, 2, 3, 4)]), coco_object(1, 9, 9, 5, 6)]
    (entry,) = zoo(tmp_path, images={'a.jpg': (60, 40, objects)}).roidb
    assert masks.decoded(entry['segms'], 40, 60).sum((0, 1)).tolist() == [9, 30]
    assert 'all.json: 1 annotations have no mask that can be used' in caplog.text


def test_large_files_keep_their_masks_too(data, tmp_path, monkeypatch):  # noqa: F811
    """In an .npz file of their own, which goes with the annotation file's time and size."""
    monkeypatch.setattr('datasets.readers.coco.CACHE_FROM', 1)
    objects = [coco_object(3, 1, 2, 8, 4, segmentation=[rectangle(1, 2, 3, 4)])]
    path = kit(tmp_path, {'a.jpg': (60, 40, objects)})
    wanted = own.make(own.load(path), 'train').roidb[0]['segms']
    assert sum('_masks_' in name.name for name in (data / 'cache').glob('*.npz')) == 1
    monkeypatch.setattr('datasets.readers.masks.rle_of', None)
    coco_reader._kept.cache_clear()
    assert own.make(own.load(path), 'train').roidb[0]['segms'] == wanted


# --------------------------------------------------------------------------------------------------- looks
def painted(path, width, height, boxes, segms):
    """A black image with a rectangle of a colour of its own at each box, and its masks."""
    im = np.zeros((height, width, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        im[y1 : y2 + 1, x1 : x2 + 1] = 50 * (i + 1)
    cv2.imwrite(str(path), im)
    classes = range(1, len(boxes) + 1)
    return Record(boxes, classes, len(boxes) + 1, image=str(path), width=width, height=height, segms=segms)


@pytest.mark.parametrize('flipped', [False, True])
@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'TRAIN.FLIP_PROB': 0.5},
        {'TRAIN.ASPECT_CROPPING': True},
        {'TRAIN.ASPECT_CROPPING': True, 'TRAIN.FLIP_PROB': 0.5, 'TRAIN.CROP_PROB': 0.5},
    ],
)
def test_masks_lie_on_their_objects_pixels(tmp_path, settings, flipped):
    """Of images that were not scaled: gt_masks is where the pixels have the object's colour."""
    boxes = [[2, 3, 11, 9], [30, 0, 44, 12], [60, 5, 63, 18], [70, 1, 99, 4]]
    forms = [[rectangle(*boxes[0])], [rectangle(*boxes[1])]]
    forms += [{'size': [21, 100], 'counts': runs_of(box_mask(21, 100, *boxes[2]))}, [rectangle(*boxes[3])]]
    roidb = [painted(tmp_path / 'a.png', 100, 21, boxes, forms)]
    roidb = [roidb[0].mirrored()] if flipped else roidb
    np.random.seed(5)
    for _ in range(8):
        state = np.random.get_state()
        with overrides({**RPN, **settings, 'TRAIN.SCALES': [21]}):
            (look,) = draw_looks(cfg.TRAIN, roidb)
            crop = look.crop
            short = min(crop.x2 - crop.x1 + 1, crop.y2 - crop.y1 + 1) if crop else 21
            np.random.set_state(state)
            with overrides({'TRAIN.SCALES': [short]}):
                blobs = get_minibatch(roidb, 5, masks=True)
        colours = (blobs['data'][0, 0] + cfg.PIXEL_MEANS[0, 0, 0]).round()
        assert blobs['gt_masks'].shape == (len(blobs['gt_boxes']), *blobs['data'].shape[2:])
        for mask, cls in zip(blobs['gt_masks'], blobs['gt_boxes'][:, 4]):
            assert mask.any() and (mask == (colours == 50 * cls)).all()


def test_masks_are_scaled_by_corners_of_pixels():
    random = np.random.default_rng(2)
    masks_ = (random.random((13, 17, 3)) < 0.5).astype(np.uint8)
    for size in (13, 17), (20, 31), (7, 9), (800, 1333):
        found = seen_masks(masks_, False, Look(0), size)
        pixels = torch.from_numpy(masks_.transpose(2, 0, 1).copy())[None]
        assert (found == F.interpolate(pixels, size)[0].numpy()).all()
        for y, x in np.ndindex(*size) if max(size) < 50 else ():
            assert (found[:, y, x] == masks_[y * 13 // size[0], x * 17 // size[1]]).all()


@pytest.mark.parametrize('prefetch', [False, True])
@pytest.mark.parametrize('seed_each', [False, True])
def test_the_data_layer_serves_masks_of_several_images(tmp_path, prefetch, seed_each):
    """Padded with zeros, in the order of gt_boxes, whoever makes them; images of different sizes, one without objects."""
    roidb = [
        painted(tmp_path / 'a.png', 40, 30, [[1, 2, 8, 9], [20, 3, 30, 29]], [[rectangle(1, 2, 8, 9)]] * 2),
        painted(tmp_path / 'b.png', 60, 30, [[31, 2, 48, 19]], [[rectangle(31, 2, 48, 19)]]),
        painted(tmp_path / 'c.png', 44, 30, np.zeros((0, 4)), []),
    ]
    settings = {
        'TRAIN.IMS_PER_BATCH': 3,
        'TRAIN.SCALES': [30],
        'TRAIN.FLIP_PROB': 0.5,
        'TRAIN.USE_PREFETCH': prefetch,
    }
    with overrides({**RPN, **settings, 'TRAIN.SEED_EACH_IMAGE': seed_each, 'TRAIN.LOADER_WORKERS': 0}):
        net = one_layer_net(tmp_path, 'roi_data_layer.layer', 'RoIDataLayer', TOPS, "'num_classes': 3")
        np.random.seed(4)
        net.layers[0].set_roidb(roidb)
        for _ in range(3):
            net.forward()
            boxes, found = net.blobs['gt_boxes'].data, net.blobs['gt_masks'].data
            assert found.shape == (3, 30, 60) == (3, *net.blobs['data'].shape[2:])
            for (*box, _, number), mask in zip(boxes.tolist(), found):
                path = roidb[net.layers[0].drawn[int(number)]]
                if mask.sum() == 64 and path['width'] == 40:
                    continue  # both objects of the first image are given the mask of one
                assert (mask == box_mask(30, 60, *map(int, box))).all()


def test_who_wants_masks_that_are_not_there_is_told(tmp_path):
    roidb = [painted(tmp_path / 'a.png', 40, 30, [[1, 2, 8, 9]], None)]
    with (
        overrides({**RPN, 'TRAIN.SCALES': [30]}),
        pytest.raises(ValueError, match='a.png: the net wants masks'),
    ):
        get_minibatch(roidb, 2, masks=True)


def test_the_number_of_masks_is_that_of_objects():
    with pytest.raises(ValueError, match='1 objects have 2 segms'):
        Record([[1, 2, 3, 4]], [1], 2, segms=[[rectangle(1, 2, 3, 4)]] * 2)


def test_workers_have_room_for_masks():
    with overrides({'TRAIN.SCALES': [800], 'TRAIN.MAX_SIZE': 1333, 'TRAIN.IMS_PER_BATCH': 1}):
        assert room_for(cfg.TRAIN, 32, True) - room_for(cfg.TRAIN, 32) > 20 * 800 * 1333


# ----------------------------------------------------------------------------------------------------- toy
def test_the_toys_polygons_hold_just_the_pixels_that_were_drawn(data, tmp_path):  # noqa: F811
    """In its annotation file, by its own reader; boxes and classes as the XML files have them."""
    make_toy.write(str(tmp_path / 'toy'), train=5, val=1, seed=5)
    drawn, random = [], np.random.default_rng(5)
    for _ in range(5):
        drawn.append(make_toy.draw(random)[1])
    sets = [own.make(own.load(tmp_path / 'toy' / name), 'train') for name in ('toy_masks.yml', 'toy.yml')]
    for entry, other, objects in zip(*(db.roidb for db in sets), drawn):
        assert entry['image'] == other['image'] and (entry['boxes'] == other['boxes']).all()
        assert (entry['gt_classes'] == other['gt_classes']).all() and len(entry['boxes']) == len(objects)
        found = masks.decoded(entry['segms'], entry['height'], entry['width'])
        for mask, (_, _, pixels) in zip(np.moveaxis(found, 2, 0), objects):
            assert (mask == pixels).all()


def test_outlines_of_pixels_that_meet_in_corners():
    pixels = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0]], np.uint8)
    found = make_toy.outlines(pixels)
    assert (masks.decoded([found], 3, 3)[..., 0] == pixels).all()
    assert make_toy.outlines(np.ones((2, 3), np.uint8)) == [[0, 0, 3, 0, 3, 2, 0, 2]]


# ------------------------------------------------------------------------------------------------- faults
def test_faults_of_masks_are_listed(data, tmp_path, capsys):  # noqa: F811
    size = [40, 60]
    objects = [
        coco_object(1, 1, 1, 5, 5, segmentation=[rectangle(1, 1, 5, 5)]),
        coco_object(1, 1, 1, 5, 5, segmentation=[[1, 1, 5, 5], rectangle(1, 1, 5, 5)]),
        coco_object(3, 1, 1, 5, 5, segmentation=[[1, 1, 5, 5]]),
        coco_object(3, 1, 1, 5, 5, segmentation=[rectangle(20, 20, 30, 30)]),
        coco_object(3, 1, 1, 5, 5, segmentation={'size': size, 'counts': [3, 16]}),
        coco_object(3, 0, 0, 60, 40, iscrowd=1, segmentation={'size': size, 'counts': [0, 2400]}),
        coco_object(3, 1, 1, 5, 5),
    ]
    path = kit(tmp_path, {'b.jpg': (60, 40, []), 'a.jpg': (60, 40, objects)})
    assert check_dataset.main([str(path)]) == 0
    where = f'{tmp_path}/annotations/all.json, image 20: object'
    assert capsys.readouterr().out.splitlines()[:5] == [
        f'{where} 2 (cat): polygon 1 has 2 points, fewer than 3; the others are its mask',
        f'{where} 3 (dog): polygon 1 has 2 points, fewer than 3; its box stands for it',
        f'{where} 4 (dog): its mask does not touch its box',
        f'{where} 5 (dog): broken run lengths: they are of 19 pixels, of which the image has 2400; its box stands for it',
        f'{where} 7 (dog): has no mask; its box stands for it',
    ]


def test_a_file_without_masks_has_no_faulty_ones(data, tmp_path, capsys):  # noqa: F811
    path = kit(tmp_path, {'a.jpg': (60, 40, [coco_object(1, 1, 1, 5, 5)])})
    assert check_dataset.main([str(path)]) == 0 and 'has no mask' not in capsys.readouterr().out


# --------------------------------------------------------------------------------------------- evaluation
def found_masks(db, roughness=0):
    """all_boxes and masks: the objects, their masks eaten at by chance."""
    random = np.random.default_rng(1)
    boxes = [[np.zeros((0, 5), np.float32) for _ in range(db.num_images)] for _ in db.classes]
    found = [[[] for _ in range(db.num_images)] for _ in db.classes]
    for i, entry in enumerate(db.roidb):
        for k, box, segm in zip(entry['gt_classes'], entry['boxes'], entry['segms']):
            mask = masks.decoded([segm], *db.image_size_at(i)[::-1])[..., 0]
            mask = mask & (random.random(mask.shape) >= roughness)
            boxes[k][i] = np.vstack([boxes[k][i], [*box, random.random()]]).astype(np.float32)
            found[k][i].append(coco_mask.encode(np.asfortranarray(mask)))
    return boxes, found


def test_masks_are_scored_as_pycocotools_scores_them(data, tmp_path, capsys):  # noqa: F811
    """From the file that is written, against the file of annotations, by its own program; crowds with their masks."""
    make_toy.write(str(tmp_path / 'toy'), train=1, val=6, seed=2)
    path = tmp_path / 'toy' / 'annotations' / 'instances_val.json'
    content = json.loads(path.read_text())
    content['annotations'][0].update(iscrowd=1, segmentation={'size': [0, 0], 'counts': []})
    for row in content['annotations'][:1]:
        size = next((i['height'], i['width']) for i in content['images'] if i['id'] == row['image_id'])
        row['segmentation'] = {'size': list(size), 'counts': [0, size[0] * size[1]]}
    content['annotations'].reverse()  # images are not in their order
    path.write_text(json.dumps(content))
    db = own.make(own.load(tmp_path / 'toy' / 'toy_masks.yml'), 'val')
    boxes, found = found_masks(db, 0.3)
    mean = db.evaluate_detections(boxes, str(tmp_path / 'out'), masks=found)
    printed = capsys.readouterr().out
    assert mean > 0.99 and 'masks_val_results.json' in printed and printed.count('Mean AP') == 2
    theirs = COCO(str(path))
    scoring = COCOeval(theirs, theirs.loadRes(str(tmp_path / 'out/results/masks_val_results.json')), 'segm')
    scoring.evaluate(), scoring.accumulate(), scoring.summarize()
    assert 0.3 < scoring.stats[0] < 0.7 and scoring.stats[1] > 0.99
    np.testing.assert_array_equal(db.mask_scores(boxes, found).stats, scoring.stats)


def test_joined_sets_score_their_own_masks(data, tmp_path, capsys):  # noqa: F811
    make_toy.write(str(tmp_path / 'toy'), train=2, val=3, seed=2)
    description = own.load(tmp_path / 'toy' / 'toy_masks.yml')
    parts = [own.make(description, split) for split in ('train', 'val')]
    halves = [found_masks(db) for db in parts]
    boxes, found = ([a + b for a, b in zip(*both)] for both in zip(*halves))
    assert joined(parts).evaluate_detections(boxes, masks=found) > 0.99
    assert capsys.readouterr().out.count('Masks:') == 2


# ------------------------------------------------------------------------------------------------ pasting
def plainly_pasted(prob, box, height, width):
    """By the formula, pixel by pixel: a mask of M cells with one more around."""
    side = len(prob)
    padded = np.zeros((side + 2, side + 2))
    padded[1:-1, 1:-1] = prob
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (side + 2) / side
    (x1, y1), (x2, y2) = np.trunc(centre - half).astype(int), np.trunc(centre + half).astype(int)
    wide, high = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    mask = np.zeros((height, width))
    for y in range(max(y1, 0), min(y1 + high, height)):
        for x in range(max(x1, 0), min(x1 + wide, width)):
            v, u = (
                np.clip((p + 0.5) * (side + 2) / n - 0.5, 0, side + 1)
                for p, n in ((y - y1, high), (x - x1, wide))
            )
            i, j = min(int(v), side), min(int(u), side)
            above, below = (padded[k, j] * (j + 1 - u) + padded[k, j + 1] * (u - j) for k in (i, i + 1))
            mask[y, x] = above * (i + 1 - v) + below * (v - i)
    return mask > 0.5


def test_pasted_by_a_plain_loop():
    """Boxes within, across each edge, of no size, beyond."""
    random = np.random.default_rng(4)
    boxes = np.array(
        [
            [5, 6, 25, 20],
            [-9, 3, 12, 40],
            [20.5, 10.25, 47.75, 29],
            [30, 25, 44, 36],
            [7, 7, 7, 7],
            [60, 60, 70, 70],
        ]
    )
    probs = random.random((len(boxes), 7, 7)).astype(np.float32)
    for rle, prob, box in zip(pasted(probs, boxes, 30, 40), probs, boxes):
        assert (coco_mask.decode(rle) == plainly_pasted(prob, box, 30, 40)).mean() > 0.998
    assert pasted(probs[:0], boxes[:0], 30, 40) == []


@pytest.mark.skipif(not os.path.exists(RECORDED), reason='shared/golden/torchvision is not there')
def test_recorded_masks_have_their_recorded_areas():
    with np.load(RECORDED) as recorded:
        for i in range(2):
            boxes, areas = recorded[f'mask_r18/boxes{i}'], recorded[f'mask_r18/pasted_area{i}']
            size = recorded[f'mask_r18/image{i}'].shape[1:]
            found = coco_mask.area(pasted(recorded[f'mask_r18/masks{i}'], boxes, *size))
            assert len(areas) > 5
            np.testing.assert_allclose(found, areas, rtol=0.01, atol=1)


def test_masks_and_boxes_share_rows_on_disk():
    """Whatever the bytes of codes mean as numbers; of nothing found, too."""
    random = np.random.default_rng(3)
    for count in 0, 1, 5:
        dets = random.random((count, 6)).astype(np.float32)
        drawn = (random.random((40, 50, count)) < 0.3).astype(np.uint8)
        drawn[..., :1] = 0
        rles = coco_mask.encode(np.asfortranarray(drawn))
        rows = packed(dets, rles)
        assert rows.dtype == np.float32 and rows.shape[1] == 6
        boxes, found = unpacked(np.ascontiguousarray(rows, np.float32).copy(), 40, 50)
        assert (boxes == dets).all() and found == rles

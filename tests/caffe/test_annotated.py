"""AnnotatedData: its changes of images and boxes by plain loops, its batches, and the programs that make its database."""

import collections

import cv2
import numpy as np
import pytest
import torch

import caffe
from caffe import convert_annoset, get_image_size
from caffe.format.database import open_database, write_database
from caffe.format.prototxt import parse_text
from caffe.proto import caffe_pb2
from caffe.types.sources.augment import BoxTransformer, fitted, satisfied
from helpers import layer, net_from

RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (20, 30, 3), np.uint8)  # (H, W, K)
ROWS = np.float32(
    [[1, 0, 0.1, 0.2, 0.4, 0.6, 0], [2, 0, 0.5, 0.5, 0.9, 1.0, 1], [1, 1, 0.0, 0.0, 0.2, 0.1, 0]]
)
COLOURS = (
    'brightness_prob: 1 brightness_delta: 32 contrast_prob: 1 contrast_lower: 0.5 contrast_upper: 1.5 '
    'hue_prob: 1 hue_delta: 18 saturation_prob: 1 saturation_lower: 0.5 saturation_upper: 1.5'
)


def message(kind, text):
    return parse_text(text, kind(), 'text')


def transformer(text='', phase=caffe.TRAIN, seed=0):
    param = message(caffe_pb2.TransformationParameter, text)
    return BoxTransformer(param, phase, torch.Generator().manual_seed(seed))


class Drawn:
    """A transformer whose draws are given: uniform and coin take the next share of their range, draw the next number."""

    def __init__(self, text, *shares, numbers=()):
        self.it, self.shares, self.numbers = transformer(text), list(shares), list(numbers)
        self.it.uniform = self.uniform
        self.it.draw = lambda count: self.numbers.pop(0)

    def uniform(self, low, high, *shape):
        return low + (high - low) * np.full(shape, self.shares.pop(0))[()]


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0)


def area(b):
    return (b[2] - b[0]) * (b[3] - b[1])


# ---- windows ----


@pytest.mark.parametrize(
    'limits',
    [
        'min_jaccard_overlap: 0.2',
        'min_jaccard_overlap: 0.1 max_jaccard_overlap: 0.3',
        'min_sample_coverage: 0.3',
        'max_object_coverage: 0.8 min_object_coverage: 0.4',
        'min_object_coverage: 0.7 max_sample_coverage: 0.5',
        '',
    ],
)
def test_constraints(limits):
    """By a loop: a window is good if some object keeps all the limits."""
    constraint = message(caffe_pb2.SampleConstraint, limits)
    corner, size = RNG.random((2, 40, 2)) * 0.6
    windows, boxes = np.concatenate([corner, corner + size + 0.05], 1), ROWS[:, 2:6].astype(float)
    found = satisfied(windows, boxes, constraint)
    for window, good in zip(windows, found):
        kept = []
        for box in boxes:
            common = overlap(window, box)
            shares = {
                'jaccard_overlap': common / (area(window) + area(box) - common),
                'sample_coverage': common / area(window),
                'object_coverage': common / area(box),
            }
            kept.append(
                all(
                    (value >= getattr(constraint, f'min_{name}') or not constraint.HasField(f'min_{name}'))
                    and (
                        value <= getattr(constraint, f'max_{name}') or not constraint.HasField(f'max_{name}')
                    )
                    for name, value in shares.items()
                )
            )
        assert good == any(kept)
    assert 0 < found.sum() <= 40


def test_windows_have_the_size_and_shape_asked_for():
    how = (
        'sampler { min_scale: 0.3 max_scale: 0.8 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } max_trials: 400'
    )
    windows = transformer()._windows(ROWS[:, 2:6], message(caffe_pb2.BatchSampler, how))
    width, height = (windows[:, 2:] - windows[:, :2]).T
    assert len(windows) == 400 and windows.min() >= 0 and windows.max() <= 1
    scale, ratio = (width * height) ** 0.5, width / height
    for value, low, high in ((scale, 0.3, 0.8), (ratio, 0.5, 2)):
        assert low - 1e-9 < value.min() < low * 1.1 and high * 0.9 < value.max() < high + 1e-9
    few = transformer()._windows(ROWS[:, 2:6], message(caffe_pb2.BatchSampler, how + ' max_sample: 3'))
    np.testing.assert_array_equal(few, windows[:3])
    whole = transformer()._windows(ROWS[:, 2:6], message(caffe_pb2.BatchSampler, 'max_trials: 2'))
    np.testing.assert_array_equal(whole, [[0, 0, 1, 1]] * 2)


@pytest.mark.parametrize('sampler', ['min_scale: 0', 'max_scale: 1.5', 'min_scale: 0.5 max_scale: 0.4'])
def test_windows_that_cannot_be(sampler):
    with pytest.raises(ValueError, match='0 < min_scale <= max_scale <= 1'):
        transformer()._windows(ROWS[:, 2:6], message(caffe_pb2.BatchSampler, f'sampler {{ {sampler} }}'))


def test_a_window_is_cut_with_its_objects():
    """x from 7.7 to 22.9 of 30: 15 whole pixels from 7 on; y from 3 to 15 of 20."""
    image, rows = transformer().cut(IMAGE, ROWS, np.array([7.7 / 30, 3.01 / 20, 22.9 / 30, 15.02 / 20]))
    np.testing.assert_array_equal(image, IMAGE[3:15, 7:22])
    wanted = []
    for label, number, x1, y1, x2, y2, difficult in ROWS.tolist():
        moved = [
            (v * n - o) / s for v, n, o, s in zip((x1, y1, x2, y2), (30, 20) * 2, (7, 3) * 2, (15, 12) * 2)
        ]
        moved = [min(max(v, 0), 1) for v in moved]
        if moved[0] < moved[2] and moved[1] < moved[3]:
            wanted.append([label, number, *moved, difficult])
    np.testing.assert_allclose(rows, wanted, atol=1e-6)
    assert len(rows) == 2


@pytest.mark.parametrize(
    'constraint, kept',
    [('emit_type: CENTER', [0]), ('emit_type: MIN_OVERLAP emit_overlap: 0.2', [0, 1]), (None, [0, 1])],
)
def test_which_objects_a_window_keeps(constraint, kept):
    """Of the window up to (0.7, 0.7) the second object has its centre (0.7, 0.75) outside, and 0.04 of 0.2 inside."""
    text = '' if constraint is None else f'emit_constraint {{ {constraint} }}'
    rows = ROWS[:2] + np.float32([0, 0, 0, 0, 0, 0, 0])
    found = transformer(text).kept(rows, np.array([0, 0, 0.7, 0.71]))
    assert [int(row[0]) - 1 for row in found] == kept


def test_expansion():
    """To 2.5 times the size, 30 x 20 into 75 x 50, at half of the room: x 22, y 15."""
    text = 'expand_param { prob: 0.5 max_expand_ratio: 4 } mean_value: 7 mean_value: 8.6 mean_value: 9'
    image, rows = Drawn(text, 0.4, 0.5, 0.5, 0.5).it.expand(IMAGE, ROWS)
    assert image.shape == (50, 75, 3) and image[0, 0].tolist() == [7, 9, 9]
    np.testing.assert_array_equal(image[15:35, 22:52], IMAGE)
    wanted = [[(x * 30 + 22) / 75, (y * 20 + 15) / 50] for _, _, x, y, *_ in ROWS.tolist()]
    np.testing.assert_allclose(rows[:, 2:4], wanted, atol=1e-6)
    image, rows = Drawn(text, 0.6).it.expand(IMAGE, ROWS)
    assert image is IMAGE and rows is ROWS


# ---- colours and sizes ----


def test_colours_one_by_one():
    """By a loop over pixels, in bytes: + 16; * 1.25; of HSV, saturation * 1.25, hue + 9."""
    p = message(caffe_pb2.DistortionParameter, COLOURS)
    clipped = lambda v: min(max(round(v), 0), 255)  # noqa: E731
    for name, change in (('_brightness', lambda v: v + 16), ('_contrast', lambda v: v * 1.25)):
        found = getattr(Drawn('', 0, 0.75).it, name)(IMAGE, p)
        wanted = [clipped(change(int(v))) for v in IMAGE.ravel()]
        np.testing.assert_array_equal(found.ravel(), wanted)
    for name, channel, change in (('_saturation', 1, lambda v: v * 1.25), ('_hue', 0, lambda v: v + 9)):
        hsv = cv2.cvtColor(IMAGE, cv2.COLOR_BGR2HSV)
        for row in hsv.reshape(-1, 3):
            row[channel] = clipped(change(int(row[channel])))
        found = getattr(Drawn('', 0, 0.75).it, name)(IMAGE, p)
        np.testing.assert_array_equal(found, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def test_the_order_of_colours_and_their_chances(monkeypatch):
    orders = collections.Counter()
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
        monkeypatch.setattr(
            BoxTransformer, f'_{name}', lambda self, image, p, name=name: done.append(name) or image
        )
    it = transformer('distort_param { random_order_prob: 0 }')
    for _ in range(200):
        done = []
        it.distort(IMAGE, 'x')
        orders[tuple(done)] += 1
    assert set(orders) == {
        ('brightness', 'contrast', 'saturation', 'hue'),
        ('brightness', 'saturation', 'hue', 'contrast'),
    }
    assert min(orders.values()) > 60
    mixed = transformer('distort_param { random_order_prob: 1 }').distort(IMAGE, 'x')
    assert sorted(mixed.sum((0, 1))) == sorted(IMAGE.sum((0, 1)))
    with pytest.raises(ValueError, match='x: distort_param wants bytes in 3 channels; got uint8 in 1'):
        it.distort(IMAGE[:, :, :1], 'x')


@pytest.mark.parametrize(
    'mode, size, place',
    [
        ('WARP', (10, 12), None),
        ('FIT_LARGE_SIZE_AND_PAD', (8, 12), (0, 1)),
        ('FIT_SMALL_SIZE', (10, 15), None),
    ],
)
def test_resizing(mode, size, place):
    """An image 30 wide and 20 high for 12 x 10: warped; 12 x 8 with a row above and below; 15 x 10."""
    text = f'resize_param {{ height: 10 width: 12 resize_mode: {mode} pad_value: 5 interp_mode: NEAREST }}'
    image, rows = transformer(text).resize(IMAGE, ROWS)
    whole = cv2.resize(IMAGE, size[::-1], interpolation=cv2.INTER_NEAREST)
    if place is None:
        np.testing.assert_array_equal(image, whole)
        np.testing.assert_array_equal(rows, ROWS)
    else:
        assert image.shape == (10, 12, 3) and (image[[0, 9]] == 5).all()
        np.testing.assert_array_equal(image[1:9], whole)
        np.testing.assert_allclose(rows[:, 3], (ROWS[:, 3] * 8 + 1) / 10, atol=1e-6)
        np.testing.assert_array_equal(rows[:, 2], ROWS[:, 2])


def test_sizes_that_fit():
    resize = message(caffe_pb2.ResizeParameter, 'height: 10 width: 20 resize_mode: FIT_SMALL_SIZE')
    assert [fitted(w, h, resize) for w, h in ((40, 20), (50, 20), (20, 40))] == [(20, 10), (25, 10), (20, 40)]
    resize.resize_mode = resize.FIT_LARGE_SIZE_AND_PAD
    assert [fitted(w, h, resize) for w, h in ((40, 20), (50, 20), (20, 40))] == [(20, 10), (20, 8), (5, 10)]


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('resize_param { height: 3 }', 'wants height and width'),
        ('resize_param { height: 3 width: 3 height_scale: 4 }', 'height_scale and width_scale'),
        ('resize_param { height: 3 width: 3 prob: 0.5 }', 'prob of resize_param'),
        ('expand_param { } mean_file: "m"', 'does not go with mean_file'),
        ('noise_param { }', 'noise_param is not supported'),
    ],
)
def test_transformations_that_cannot_be(text, wanted, monkeypatch):
    monkeypatch.setattr('caffe.types.sources.transformer.read_mean', lambda path: np.zeros((3, 1, 1)))
    with pytest.raises(ValueError, match=wanted):
        transformer(text)


def test_a_mirrored_crop_of_everything():
    """With a central crop of 10 x 12 of 20 x 30 and mirrored: what is left of the objects lies where its pixels do."""
    it = Drawn('crop_h: 10 crop_w: 12 mirror: true scale: 0.5 mean_value: 3', numbers=[1]).it
    it.train = False
    image, rows = it.with_boxes(IMAGE.transpose(2, 0, 1), ROWS, [], 'x')
    np.testing.assert_allclose(image, ((IMAGE[5:15, 9:21].astype(float) - 3) / 2)[:, ::-1].transpose(2, 0, 1))
    wanted = []
    for label, number, x1, y1, x2, y2, difficult in ROWS.tolist():
        box = [(x1 * 30 - 9) / 12, (y1 * 20 - 5) / 10, (x2 * 30 - 9) / 12, (y2 * 20 - 5) / 10]
        x1, y1, x2, y2 = (min(max(v, 0), 1) for v in box)
        if x1 < x2 and y1 < y2:
            wanted.append([label, number, 1 - x2, y1, 1 - x1, y2, difficult])
    np.testing.assert_allclose(rows, wanted, atol=1e-6)


# ---- the layer ----


def record(image, rows, typed=True, label=None):
    ok, data = cv2.imencode('.png', image)
    datum = caffe_pb2.Datum(data=data.tobytes(), encoded=True, label=label)
    if not typed:
        return caffe_pb2.AnnotatedDatum(datum=datum).SerializeToString()
    size = image.shape[:2]
    objects = [(int(r[0]), bool(r[6]), r[2:6] * np.tile(size[::-1], 2)) for r in rows]
    return convert_annoset.annotated(datum, objects, size).SerializeToString()


def annotated_net(tmp_path, records, batch, more='', transform='', phase=caffe.TEST):
    if records is not None:
        write_database(str(tmp_path / 'db'), 'lmdb', [(b'%d' % i, value) for i, value in enumerate(records)])
    text = layer(
        'D',
        'AnnotatedData',
        tops='x label',
        more=f'data_param {{ source: "{tmp_path}/db" batch_size: {batch} backend: LMDB }} '
        f'annotated_data_param {{ {more} }} transform_param {{ {transform} }}',
    )
    return net_from(tmp_path, text, phase)


def test_batches_of_objects(tmp_path):
    net = annotated_net(tmp_path, [record(IMAGE, ROWS), record(IMAGE[::-1], []), record(IMAGE, ROWS[1:2])], 3)
    out = net.forward()
    np.testing.assert_array_equal(out['x'][1], IMAGE[::-1].transpose(2, 0, 1))
    wanted = [[0, *ROWS[0]], [0, *ROWS[2]], [0, *ROWS[1]], [2, *ROWS[1]]]  # by class
    np.testing.assert_allclose(out['label'], [[wanted]], atol=1e-6)
    net = annotated_net(tmp_path, None, 1)
    shapes = [net.forward()['label'].shape for _ in range(3)]
    assert shapes == [(1, 1, 3, 8), (1, 1, 1, 8), (1, 1, 1, 8)]
    net.forward()
    assert (net.forward()['label'] == -1).all()


def test_batches_without_types_have_labels(tmp_path):
    records = [record(IMAGE, [], False, label) for label in (5, 7)]
    assert annotated_net(tmp_path, records, 2).forward()['label'].tolist() == [5, 7]
    assert annotated_net(tmp_path, None, 2, 'anno_type: BBOX').forward()['label'].tolist() == [[[[-1] * 8]]]


def test_errors_name_the_record(tmp_path):
    nothing = caffe_pb2.AnnotatedDatum(datum=caffe_pb2.Datum(data=b'x', encoded=True)).SerializeToString()
    with pytest.raises(ValueError, match="'D' .AnnotatedData.: record '0' of .* neither a type nor a label"):
        annotated_net(tmp_path, [nothing], 1)


PUBLISHED = """
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param { prob: 1 resize_mode: WARP height: 30 width: 30 interp_mode: LINEAR interp_mode: AREA
                   interp_mode: NEAREST interp_mode: CUBIC interp_mode: LANCZOS4 }
    emit_constraint { emit_type: CENTER }
    distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5
        contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5
        saturation_upper: 1.5 random_order_prob: 0 }
    expand_param { prob: 0.5 max_expand_ratio: 4 }"""
SAMPLERS = 'batch_sampler { max_sample: 1 max_trials: 1 } ' + ' '.join(
    'batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } '
    f'sample_constraint {{ min_jaccard_overlap: {v} }} max_sample: 1 max_trials: 50 }}'
    for v in (0.1, 0.5, 0.9)
)


def test_objects_lie_where_their_pixels_do(tmp_path):
    """All the changes of the published nets, colours apart: a white square on gray stays in its box."""
    image = np.full((40, 60, 3), 117, np.uint8)
    image[10:30, 20:40] = 255
    box = record(image, np.float32([[3, 0, 20 / 60, 10 / 40, 40 / 60, 30 / 40, 0]]))
    transform = ' '.join(
        line for line in PUBLISHED.splitlines() if 'mean_value' not in line and 'saturation' not in line
    )
    transform = (
        transform.split('distort_param')[0]
        + 'mirror: true mean_value: 117 expand_param { prob: 0.5 max_expand_ratio: 2 }'
    )
    net = annotated_net(tmp_path, [box], 1, SAMPLERS, transform.replace('mirror: true', '', 1), caffe.TRAIN)
    seen = set()
    for _ in range(40):
        out = net.forward()
        label, pixels = out['label'][0, 0], out['x'][0].mean(0) > 60
        if label[0, 0] < 0:
            continue
        ys, xs = np.nonzero(pixels)
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert label[0, 1] == 3 and np.abs(label[0, 3:7] * 30 - found).max() < 1.6
        seen.add(tuple(np.round(label[0, 3:7], 2)))
    assert len(seen) > 20


def test_the_published_changes_run_and_repeat(tmp_path):
    net = annotated_net(tmp_path, [record(IMAGE, ROWS)], 4, SAMPLERS, PUBLISHED, caffe.TRAIN)
    first = {name: values.copy() for name, values in net.forward().items()}
    assert first['x'].shape == (4, 3, 30, 30)
    again = annotated_net(tmp_path, None, 4, SAMPLERS, PUBLISHED, caffe.TRAIN).forward()
    np.testing.assert_array_equal(first['x'], again['x'])
    np.testing.assert_array_equal(first['label'], again['label'])


# ---- convert_annoset and get_image_size ----

XML = """<annotation><size><width>30</width><height>20</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult><bndbox><xmin>15</xmin><ymin>10</ymin><xmax>27</xmax><ymax>20</ymax>
</bndbox></object><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>6</xmax><ymax>2</ymax></bndbox></object></annotation>"""
JSON = """{"image": {"file_name": "a.png", "height": 20, "width": 30}, "annotation": [
 {"bbox": [3, 4, 9, 8], "category_id": 17, "iscrowd": 0}, {"bbox": [15, 10, 12, 10], "category_id": 18, "iscrowd": 1},
 {"bbox": [0, 0, 6, 2], "category_id": 17, "iscrowd": 0}]}"""
TXT = '1 3 4 12 12\n2 15 10 27 20\n1 0 0 6 2\n'


@pytest.fixture
def listed(tmp_path):
    """An image with annotations of all kinds, lists and label maps."""
    cv2.imwrite(str(tmp_path / 'a.png'), IMAGE)
    for kind, text in (('xml', XML), ('json', JSON), ('txt', TXT)):
        (tmp_path / f'a.{kind}').write_text(text)
        (tmp_path / f'{kind}.list').write_text(f'a.png a.{kind}\n')
    (tmp_path / 'plain.list').write_text('a.png 4\n')
    for name, (cat, dog) in (('map', ('cat', 'dog')), ('json.map', ('17', '18'))):
        (tmp_path / name).write_text(f'item {{ name: "{cat}" label: 1 }} item {{ name: "{dog}" label: 2 }}')
    return tmp_path


def converted(folder, listing, *flags):
    convert_annoset.main([*flags, f'{folder}/', f'{folder}/{listing}', f'{folder}/db'])
    ((key, value),) = [(bytes(k), bytes(v)) for k, v in open_database(folder / 'db', 'lmdb')]
    assert key == b'00000000_a.png'
    return caffe_pb2.AnnotatedDatum.FromString(value)


@pytest.mark.parametrize('kind', ['xml', 'json', 'txt'])
def test_annotations_of_all_kinds(kind, listed):
    labels = '--label_map_file=%s/%s' % (listed, 'json.map' if kind == 'json' else 'map')
    found = converted(
        listed,
        f'{kind}.list',
        '--anno_type=detection',
        f'--label_type={kind}',
        labels,
        '--encoded=true',
        '--check_label',
    )
    assert found.type == found.BBOX and found.datum.data == (listed / 'a.png').read_bytes()
    rows = [
        [g.group_label, a.instance_id, a.bbox.xmin, a.bbox.ymin, a.bbox.xmax, a.bbox.ymax, a.bbox.difficult]
        for g in found.annotation_group
        for a in g.annotation
    ]
    wanted = ROWS[[0, 2, 1]]
    wanted[2, 6] = kind != 'txt'
    np.testing.assert_allclose(rows, wanted, atol=1e-6)


def test_classification_and_sizes(listed):
    found = converted(listed, 'plain.list', '-min_dim', '40')
    assert found.datum.label == 4 and not found.HasField('type')
    assert (found.datum.height, found.datum.width) == (40, 60)


@pytest.mark.parametrize(
    'flags, size',
    [
        ('', (0, 0)),
        ('-min_dim 40', (40, 60)),
        ('-min_dim 40 -max_dim 45', (30, 45)),
        ('-max_dim 15', (10, 15)),
    ],
)
def test_dimensions(flags, size):
    assert (
        convert_annoset.stored_size((20, 30), convert_annoset.parse([*flags.split(), 'r', 'l', 'd'])) == size
    )


@pytest.mark.parametrize(
    'name, text, wanted',
    [
        ('a.xml', XML.replace('dog', 'cow'), "a.xml: 'cow' is not in the label map; known: cat, dog"),
        ('a.xml', XML.replace('<xmin>3</xmin>', ''), 'a.xml is no annotation of an image'),
        ('a.xml', XML.replace('>30<', '>0<'), r'the image is \(20, 0\)'),
        ('a.xml', '<annotation>', 'a.xml is no annotation of an image'),
        ('xml.list', 'a.png\n', 'lines with an image and its annotations'),
    ],
)
def test_annotations_that_cannot_be(name, text, wanted, listed):
    (listed / name).write_text(text)
    with pytest.raises(SystemExit, match='convert_annoset: .*' + wanted):
        converted(listed, 'xml.list', '-anno_type', 'detection', '-label_map_file', f'{listed}/map')
    assert not (listed / 'db').exists()


def test_sizes_of_images(listed):
    get_image_size.main([f'{listed}/', f'{listed}/xml.list', f'{listed}/sizes.txt'])
    assert (listed / 'sizes.txt').read_text() == 'a 20 30\n'
    (listed / 'names').write_text('a 7\n')
    get_image_size.main(
        ['-name_id_file', f'{listed}/names', f'{listed}/', f'{listed}/plain.list', f'{listed}/sizes.txt']
    )
    assert (listed / 'sizes.txt').read_text() == '7 20 30\n'
    (listed / 'plain.list').write_text('a.xml 1\n')
    with pytest.raises(SystemExit, match='get_image_size: .*a.xml'):
        get_image_size.main([f'{listed}/', f'{listed}/plain.list', f'{listed}/sizes.txt'])

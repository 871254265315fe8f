"""The data layer: the order of images, what is served of each, and what is left out."""

import caffe
import numpy as np
import pytest
from layer_runs import entry, one_layer_net, write_image

from datasets.record import FIELDS, Record
from fast_rcnn.config import cfg, overrides
from fast_rcnn.roi_sampling import compute_targets, expand_bbox_targets, sample_rois
from fpn import images
from roi_data_layer.layer import BlobFetcher, RoIDataLayer
from roi_data_layer.minibatch import get_minibatch, rois_per_image
from roi_data_layer.roidb import add_bbox_regression_targets, filter_roidb, prepare_roidb
from utils.blob import im_list_to_blob, im_scale_for, prep_im_for_blob, read_image

RPN = {'TRAIN.HAS_RPN': True, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.SCALES': [80], 'TRAIN.BBOX_REG': False}
HEAD = {'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.SCALES': [80], 'TRAIN.BG_THRESH_LO': 0.0, 'TRAIN.BATCH_SIZE': 8}


def data_net(tmp_path, tops, param=''):
    return one_layer_net(tmp_path, 'roi_data_layer.layer', 'RoIDataLayer', tops, f"'num_classes': 3{param}")


def test_image_scale():
    assert im_scale_for((300, 400, 3), 600, 1000) == 2
    assert im_scale_for((300, 600, 3), 600, 1000) == pytest.approx(1000 / 600)
    im, scale = prep_im_for_blob(np.full((10, 20, 3), 7, np.uint8), cfg.PIXEL_MEANS, 20, 100)
    assert scale == 2 and im.shape == (20, 40, 3) and im.dtype == np.float32
    np.testing.assert_allclose(im[3, 3], 7 - cfg.PIXEL_MEANS.ravel(), rtol=1e-6)
    blob = im_list_to_blob([np.ones((2, 3, 3)), np.ones((3, 1, 3))])
    assert blob.shape == (2, 3, 3, 3) and blob[0, :, 2].sum() == 0 and blob[1, :, :, 1:].sum() == 0


def test_unreadable_image(tmp_path):
    with pytest.raises(OSError, match='none.jpg: no such file'):
        read_image(str(tmp_path / 'none.jpg'))
    (tmp_path / 'text.jpg').write_text('text')
    with pytest.raises(OSError, match='text.jpg: not an image'):
        read_image(str(tmp_path / 'text.jpg'))


def test_a_cut_off_jpeg_is_named_once(tmp_path, caplog):
    whole, cut = write_image(tmp_path / 'whole.jpg', 200, 150), tmp_path / 'cut.jpg'
    with open(whole, 'rb') as stream:
        cut.write_bytes(stream.read()[:-2000])
    for path in whole, whole, str(cut), str(cut):
        assert read_image(path).shape == (150, 200, 3)
    (record,) = caplog.records
    assert record.message.startswith(f'{cut}: a damaged JPEG')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with pytest.raises(OSError, match='empty.jpg: not an image'):
        read_image(str(tmp_path / 'empty.jpg'))


def test_rois_per_image():
    assert rois_per_image(128, 0, 2) == 64 and rois_per_image(512, 16, 1) == 32
    assert rois_per_image(-1, 16, 1) == np.inf
    with pytest.raises(ValueError, match='no multiple'):
        rois_per_image(100, 16, 1)


def test_rpn_blobs(tmp_path):
    image = write_image(tmp_path / 'a.png')
    with overrides(RPN):
        net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'])
        layer = net.layers[0]
        with pytest.raises(RuntimeError, match='set_roidb'):
            net.forward()
        layer.set_roidb([entry(image, [[10, 5, 20, 30]], [2], [([0, 0, 9, 9], 0.1, 2)])])
        net.forward()
        assert layer.drawn == [0] and layer.images() == [image]
        assert net.blobs['data'].shape == (1, 3, 80, 120)
        assert net.blobs['im_info'].data.tolist() == [[80, 120, 2]]
        assert net.blobs['gt_boxes'].data.tolist() == [[20, 10, 40, 60, 2]]
        layer.set_roidb([entry(image)])
        net.forward()
        assert net.blobs['gt_boxes'].shape == (0, 5)


@pytest.mark.parametrize('workers', [0, 1])
def test_images_and_boxes_as_torchvisions_nets_see_them(tmp_path, workers):
    """The images are fpn.images', padded to 32; boxes end at edges, moved by each side's own ratio."""
    sizes, box = [(60, 41), (33, 60)], [[10, 5, 20, 30]]
    roidb = [entry(write_image(tmp_path / f'{i}.png', *size, i), box, [2]) for i, size in enumerate(sizes)]
    settings = {'TRAIN.IMS_PER_BATCH': 2, 'TRAIN.MAX_SIZE': 100, 'TRAIN.LOADER_WORKERS': workers}
    with overrides(RPN | settings):
        net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'], r" \n'boxes': torchvision")
        net.layers[0].set_roidb(roidb)
        net.forward()
        data, info, gt_boxes = (net.blobs[name].data for name in ('data', 'im_info', 'gt_boxes'))
    assert data.shape == (2, 3, 128, 128)
    for i, number in enumerate(net.layers[0].drawn):
        width, height = sizes[number]
        image, scale = images.scaled(read_image(roidb[number]['image']), cfg.PIXEL_MEANS, 80, 100)
        high, wide = image.shape[:2]
        assert info[i].tolist() == [high, wide, np.float32(scale)]
        np.testing.assert_array_equal(data[i, :, :high, :wide], image.transpose(2, 0, 1))
        assert not data[i, :, high:].any() and not data[i, :, :, wide:].any()
        across, down = wide / width, high / height
        np.testing.assert_allclose(
            gt_boxes[i], [10 * across, 5 * down, 21 * across, 31 * down, 2, i], rtol=1e-6
        )


def test_flipped_image(tmp_path):
    image = write_image(tmp_path / 'a.png')
    with overrides(RPN):
        plain, flipped = (
            get_minibatch([{**entry(image), 'flipped': flip}], 3)['data'] for flip in (False, True)
        )
    np.testing.assert_allclose(plain[..., ::-1], flipped, atol=1e-3)


def test_wrong_number_of_tops(tmp_path):
    with overrides(RPN), pytest.raises(ValueError, match='data, im_info, gt_boxes'):
        data_net(tmp_path, ['data', 'im_info'])


def test_rpn_blobs_of_several_images(tmp_path):
    """Of unlike sizes: the smaller one is padded with zeros, im_info has what it is without them."""
    wide, small = (
        write_image(tmp_path / f'{w}.png', width=w, height=h, seed=w) for w, h in ((60, 40), (50, 40))
    )
    entries = [
        entry(wide, [[10, 5, 20, 30], [0, 0, 9, 9]], [2, 1]),
        entry(small, [[1, 2, 3, 4]], [1], width=50),
        entry(small, width=50),
    ]
    with overrides({**RPN, 'TRAIN.IMS_PER_BATCH': 3}):
        net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'])
        assert net.blobs['im_info'].shape == (3, 3) and net.blobs['gt_boxes'].shape == (1, 6)
        blobs = get_minibatch(entries, 3)
        alone = [get_minibatch([one], 3) for one in entries]
    assert blobs['data'].shape == (3, 3, 80, 120) and not blobs['data'][1:, :, :, 100:].any()
    for i, width in enumerate((120, 100, 100)):
        np.testing.assert_array_equal(blobs['data'][i : i + 1, :, :, :width], alone[i]['data'])
    assert blobs['im_info'].tolist() == [[80, 120, 2], [80, 100, 2], [80, 100, 2]]
    assert blobs['gt_boxes'].tolist() == [[20, 10, 40, 60, 2, 0], [0, 0, 18, 18, 1, 0], [2, 4, 6, 8, 1, 1]]
    assert [one['gt_boxes'].shape for one in alone] == [(2, 5), (1, 5), (0, 5)]


def test_head_blobs(tmp_path):
    image = write_image(tmp_path / 'a.png')
    roidb = [entry(image, [[10, 5, 20, 30]], [2], [([11, 5, 20, 30], 0.9, 2), ([40, 0, 50, 9], 0, 0)])]
    with overrides({**HEAD, 'TRAIN.FG_FRACTION': 0.5, 'TRAIN.BBOX_NORMALIZE_TARGETS': False}):
        means, stds = add_bbox_regression_targets(roidb)
        tops = ['data', 'rois', 'labels', 'bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights']
        net = data_net(tmp_path, tops)
        net.layers[0].set_roidb(roidb)
        net.forward()
        blobs = {name: net.blobs[name].data for name in tops}
    assert blobs['labels'].tolist() == [2, 2, 0]
    assert sorted(blobs['rois'][:2].tolist()) == [[0, 20, 10, 40, 60], [0, 22, 10, 40, 60]]
    assert blobs['rois'][2].tolist() == [0, 80, 0, 100, 18]
    row = blobs['rois'][:, 1].tolist().index(22)
    np.testing.assert_allclose(blobs['bbox_targets'][row, 8:], [-0.05, 0, np.log(1.1), 0], atol=1e-6)
    np.testing.assert_array_equal(blobs['bbox_inside_weights'], blobs['bbox_outside_weights'])
    assert blobs['bbox_inside_weights'].sum() == 8
    np.testing.assert_allclose(means[8:], [-0.025, 0, np.log(1.1) / 2, 0], atol=1e-6)
    np.testing.assert_allclose(stds[8:], [0.025, 0, np.log(1.1) / 2, 0], atol=1e-6)


def test_targets_are_normalised_and_never_nan(tmp_path):
    roidb = [
        entry('a', [[10, 5, 20, 30]], [2], [([11, 5, 20, 30], 0.9, 2)]),
        entry('b', [[0, 0, 9, 9]], [1]),
        entry('c'),
    ]
    add_bbox_regression_targets(roidb)
    np.testing.assert_allclose(roidb[0]['bbox_targets'], [[2, 1, 0, -1, 0], [2, -1, 0, 1, 0]], atol=1e-5)
    assert roidb[1]['bbox_targets'].tolist() == [[1, 0, 0, 0, 0]] and roidb[2]['bbox_targets'].shape == (0, 5)
    with pytest.raises(ValueError, match='prepare_roidb'):
        add_bbox_regression_targets([])


def test_background_of_train_images(tmp_path):
    train, val = (write_image(tmp_path / split / 'a.png') for split in ('train', 'val'))
    rois = [([11, 5, 20, 30], 0.9, 2), ([40, 0, 50, 9], 0, 0)]
    settings = {'TRAIN.NO_POS_SAMPLES_ON_TRAIN': True, 'TRAIN.REAL_BATCH_SIZE': 8}
    with overrides({**HEAD, **settings, 'TRAIN.BBOX_REG': False, 'TRAIN.BATCH_SIZE': 32}):
        labels = [
            get_minibatch([entry(image, [[10, 5, 20, 30]], [2], rois)], 3)['labels'] for image in (train, val)
        ]
    assert (labels[0] > 0).all() and (labels[1] == 0).any()
    with overrides({**RPN, **settings}):
        infos = [get_minibatch([entry(image)], 3)['im_info'] for image in (train, val)]
    assert [info[0, 3] for info in infos] == [0, 8]


def test_a_val_image_gives_the_background_of_its_whole_batch(tmp_path):
    """Fast R-CNN of the ImageNet recipe: 64 RoIs an image, 16 of them foreground, 4 val images among 16."""
    train, val = (write_image(tmp_path / split / 'a.png') for split in ('train', 'val'))
    rois = [([11, 5, 20, 30], 0.9, 2)] * 20 + [([40, 0, 50, 9], 0, 0)] * 300
    settings = {'TRAIN.BATCH_SIZE': 1024, 'TRAIN.REAL_BATCH_SIZE': 16, 'TRAIN.VAL_PER_BATCH_SIZE': 4}
    settings.update({'TRAIN.BBOX_REG': False, 'TRAIN.BG_THRESH_LO': 0.0})
    counts = {}
    for mixed in True, False:
        with overrides({**HEAD, **settings, 'TRAIN.NO_POS_SAMPLES_ON_TRAIN': mixed}):
            for image in train, val:
                labels = get_minibatch([entry(image, [[10, 5, 20, 30]], [2], rois)], 3)['labels']
                counts[mixed, image] = (np.sum(labels > 0), np.sum(labels == 0))
    assert counts[True, train] == (16, 0) and counts[True, val] == (16, 4 * 48)
    assert counts[False, train] == counts[False, val] == (16, 48)


def test_filter(caplog):
    caplog.set_level('INFO')
    with_object, empty = entry('/val/a', [[0, 0, 9, 9]], [1]), entry('/val/b')
    empty_train, narrow = entry('/train/c'), entry('/val/d', [[0, 0, 9, 9]], [1], width=100, height=10)
    hard = entry('/val/e', [[0, 0, 9, 9]], [1], [([0, 0, 9, 9], 0.05, 1)])
    hard['max_overlaps'][0] = 0  # as if its object were lost
    only_proposals = entry('/val/f', proposals=[([0, 0, 9, 9], 0, 0)])
    everything = [with_object, empty, empty_train, narrow]
    with overrides(RPN):
        assert filter_roidb(everything) == [with_object, narrow]  # published recipes train on no empty image
        with overrides({'TRAIN.USE_EMPTY': True}):
            caplog.clear()
            assert filter_roidb(everything) == everything and not caplog.records
            with overrides({'TRAIN.MIN_IM_RATIO': 0.2, 'TRAIN.NO_POS_SAMPLES_ON_TRAIN': True}):
                assert filter_roidb(everything) == [with_object, empty]
                assert caplog.messages == ['2 of 4 roidb entries left out: 2 remain']
    roidb = [with_object, empty, hard, only_proposals]
    assert filter_roidb(roidb) == [with_object]
    with overrides({'TRAIN.USE_EMPTY': True}):
        assert filter_roidb(roidb) == [with_object, only_proposals]
    with overrides({'TRAIN.BG_THRESH_LO': 0.0}):
        assert filter_roidb(roidb) == [with_object, hard, only_proposals]
    with pytest.raises(ValueError, match='none of the 1 images'):
        filter_roidb([empty])


def test_an_image_of_difficult_objects_alone_is_not_empty():
    empty, difficult = (Record([], [], 3, image='a', width=9, height=9, difficult=n) for n in (0, 2))
    with overrides({**RPN, 'TRAIN.USE_EMPTY': True}):
        assert filter_roidb([empty, difficult, difficult.mirrored()]) == [empty]
    with overrides({**HEAD, 'TRAIN.BG_THRESH_LO': 0.1, 'TRAIN.USE_EMPTY': True}):
        proposed = [entry.with_proposals([[0, 0, 5, 5]]) for entry in (empty, difficult)]
        assert filter_roidb(proposed) == proposed[:1]


def test_prepare_refuses_a_class_without_overlap():
    class Imdb:
        roidb = [entry('a', [[0, 0, 9, 9]], [0])]

        def image_path_at(self, i):
            return 'a.jpg'

        def image_size_at(self, i):
            return 60, 40

    with pytest.raises(ValueError, match='a.jpg: RoI 0'):
        prepare_roidb(Imdb())


def test_prefetch_changes_nothing(tmp_path):
    roidb = [entry(write_image(tmp_path / f'{i}.png', seed=i), [[i, 5, 20, 30]], [1]) for i in range(5)]
    served = []
    for prefetch in False, True:
        with overrides({**RPN, 'TRAIN.USE_PREFETCH': prefetch}):
            net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'])
            np.random.seed(4)
            net.layers[0].set_roidb(roidb)
            served.append([])
            for _ in range(12):
                net.forward()
                served[-1].append((net.layers[0].drawn, net.blobs['data'].data.copy(), np.random.rand()))
    for (drawn, data, after), (drawn2, data2, after2) in zip(*served):
        assert drawn == drawn2 and after == after2
        np.testing.assert_array_equal(data, data2)


def test_prefetch_names_the_unreadable_image(tmp_path):
    roidb = [entry(str(tmp_path / 'gone.png'), [[0, 0, 9, 9]], [1])]
    with overrides({**RPN, 'TRAIN.USE_PREFETCH': True}):
        net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'])
        net.layers[0].set_roidb(roidb)
        with pytest.raises(OSError, match='gone.png'):
            net.forward()


def test_val_images_are_mixed_in_only_if_asked_for(tmp_path):
    roidb = [
        entry(write_image(tmp_path / ('val' if i < 2 else 'train') / f'{i}.png'), [[0, 0, 9, 9]], [1])
        for i in range(8)
    ]
    drawn = {}
    for mixed in True, False:
        settings = {'TRAIN.NO_POS_SAMPLES_ON_TRAIN': mixed, 'TRAIN.REAL_BATCH_SIZE': 4}
        with overrides({**RPN, **settings, 'TRAIN.VAL_PER_BATCH_SIZE': 1}):
            net = data_net(tmp_path, ['data', 'im_info', 'gt_boxes'])
            net.layers[0].set_roidb(roidb)
            drawn[mixed] = []
            for _ in range(7):
                net.forward()
                drawn[mixed] += net.layers[0].drawn
    assert [i < 2 for i in drawn[True]] == [True, False, False, False] + [True, False, False]
    assert len(set(drawn[False])) == 7


class ForkLayer(RoIDataLayer):
    """As forks override it: an order of its own, and minibatches of its own."""

    def _shuffle_roidb_inds(self):
        self._perm, self._cur = np.arange(len(self._roidb))[::-1], 0

    def _get_next_minibatch(self):
        db_inds = self._get_next_minibatch_inds()
        blobs = get_minibatch([self._roidb[i] for i in db_inds], self._num_classes)
        blobs['gt_boxes'] = np.full((1, 5), self._cur, np.float32)
        return blobs


def test_overrides_of_a_fork_take_effect(tmp_path):
    roidb = [entry(write_image(tmp_path / f'{i}.png', width=50 + i), [[0, 0, 9, 9]], [1]) for i in range(4)]
    with overrides({**RPN, 'TRAIN.SCALES': [40]}):
        net = one_layer_net(
            tmp_path, __name__, 'ForkLayer', ['data', 'im_info', 'gt_boxes'], "'num_classes': 3"
        )
        net.layers[0].set_roidb(roidb)
        seen = []
        for _ in range(4):
            net.forward()
            seen.append((net.blobs['data'].shape[3], net.blobs['gt_boxes'].data[0, 0]))
    assert seen == [(53, 1), (52, 2), (51, 3), (53, 1)]  # the last of an order is not drawn
    assert net.layers[0]._name_to_top_map == {'data': 0, 'im_info': 1, 'gt_boxes': 2}


def test_blob_fetcher_fills_a_queue(tmp_path):
    class Enough(Exception):
        pass

    class Queue(list):
        def put(self, blobs):
            self.append(blobs)
            if len(self) == 3:
                raise Enough

    queue, image = Queue(), write_image(tmp_path / 'a.png')
    with overrides(RPN), pytest.raises(Enough):
        BlobFetcher(queue, [entry(image, [[0, 0, 9, 9]], [1])] * 2, 3).run()
    assert [blobs['gt_boxes'].shape for blobs in queue] == [(1, 5)] * 3


def test_records_are_served_as_dicts_are(tmp_path):
    """The same images as Records and as dicts: the same statistics, blobs and draws."""
    random = np.random.RandomState(5)
    records = []
    for i in range(4):
        low = random.randint(0, 20, (9, 2))
        boxes = np.hstack([low, low + random.randint(5, 19, (9, 2))]).astype(np.float32)
        image = write_image(tmp_path / f'{i}.png', seed=i)
        objects, classes = boxes[:3], random.randint(1, 3, 3)
        records.append(
            Record(objects, classes, 3, image=image, width=60, height=40, proposals=[*boxes[3:], boxes[0]])
        )
    records += [record.mirrored() for record in records]
    dicts = [{**record} for record in records]
    with overrides(HEAD):
        for ours, theirs in zip(*map(add_bbox_regression_targets, (records, dicts))):
            np.testing.assert_array_equal(ours, theirs)
        for record, plain in zip(records, dicts):
            np.testing.assert_array_equal(record['bbox_targets'], plain['bbox_targets'])
            assert record.own.keys() == {*FIELDS}  # nothing was stored
            blobs = []
            for one in record, plain:
                np.random.seed(2)
                blobs.append(get_minibatch([one], 3))
            for name in blobs[0]:
                np.testing.assert_array_equal(blobs[0][name], blobs[1][name])


def test_targets_of_class_agnostic_boxes(tmp_path):
    roidb = [
        entry(write_image(tmp_path / 'a.png'), [[10, 5, 20, 30]], [2], [([11, 5, 20, 30], 0.9, 2)]),
        entry(tmp_path / 'a.png', [[10, 5, 20, 30]], [1], [([12, 5, 20, 30], 0.8, 1)]),
    ]
    with overrides({**HEAD, 'TRAIN.AGNOSTIC': True, 'TRAIN.FG_FRACTION': 1.0}):
        means, stds = add_bbox_regression_targets(roidb)
        blobs = get_minibatch(roidb[:1], 3)
    dx = [0, -0.05, 0, -1 / 9]  # of both classes together
    assert means.shape == stds.shape == (8,)
    np.testing.assert_allclose([means[4], stds[4]], [np.mean(dx), np.std(dx)], rtol=1e-5)
    assert blobs['labels'].tolist() == [2, 2] and blobs['bbox_targets'].shape == (2, 8)
    np.testing.assert_allclose(
        sorted(blobs['bbox_targets'][:, 4]), sorted((np.array(dx[:2]) - means[4]) / stds[4]), rtol=1e-4
    )
    assert blobs['bbox_inside_weights'].tolist() == [[0] * 4 + [1] * 4] * 2


def test_sample_rois():
    overlaps = np.array([1, 0.9, 0.8, 0.6, 0.5, 0.45, 0.3, 0.1, 0.05])
    np.random.seed(0)
    keep, num_fg = sample_rois(overlaps, 4, 0.5, 0.5, 0.5, 0.1)
    assert num_fg == 2 and len(set(keep)) == 4
    assert set(keep[:2]) <= {0, 1, 2, 3, 4} and set(keep[2:]) <= {5, 6, 7}
    assert sample_rois(overlaps, 4, 0.5, 0.5, 0.5, 0.1, bg_times=0)[0].size == 2
    assert sample_rois(overlaps, 4, 0.5, 0.5, 0.5, 0.0, bg_times=1.5)[0].size == 2 + 3
    assert sample_rois(overlaps, np.inf, 0.25, 0.5, 0.5, 0.0)[0].size == 9  # every RoI
    assert sample_rois(overlaps[-1:], 4, 0.5, 0.5, 0.5, 0.1)[0].size == 0
    keep, num_fg = sample_rois(overlaps[:2], 8, 0.5, 0.5, 0.5, 0.1)
    assert sorted(keep) == [0, 1] and num_fg == 2


def test_compute_and_expand_targets():
    rois = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [40, 40, 49, 49]], np.float32)
    targets = compute_targets(rois, np.array([1, 0.82, 0]), np.array([2, 2, 0]), 0.5)
    np.testing.assert_allclose(targets, [[2, 0, 0, 0, 0], [2, -0.1, 0, 0, 0], [0] * 5], atol=1e-7)
    expanded, weights = expand_bbox_targets(targets, 3, (1, 2, 3, 4))
    np.testing.assert_allclose(expanded[1], [0] * 8 + [-0.1, 0, 0, 0], atol=1e-7)
    assert weights.tolist() == [[0] * 8 + [1, 2, 3, 4]] * 2 + [[0] * 12]


def test_torch_image_transform(tmp_path):
    rgb = np.random.RandomState(0).rand(2, 3, 4, 5)
    bgr = rgb[:, ::-1] * 255 - cfg.PIXEL_MEANS.reshape(1, 3, 1, 1)
    net = one_layer_net(
        tmp_path,
        'transform.torch_image_transform_layer',
        'TorchImageTransformLayer',
        ['out'],
        '',
        caffe.TEST,
        data=bgr.shape,
    )
    net.blobs['data'].data[...] = bgr
    net.forward()
    expected = (rgb - np.reshape([0.48462, 0.45624, 0.40588], (1, 3, 1, 1))) / np.reshape(
        [0.22889, 0.22447, 0.22496], (1, 3, 1, 1)
    )
    np.testing.assert_allclose(net.blobs['out'].data, expected, atol=1e-5)

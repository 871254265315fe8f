#!/usr/bin/env python3
"""Broken and hostile files, given to whatever reads files: each try must end in an answer, or in an error that a tool
tells in one line and that names the file; within 1 GB of memory and 20 seconds of processor time.

    python tests/fuzz.py [KIND ...] [--seconds 60] [--tries N] [--seed 0] [--keep FOLDER]

KIND is one of SEEDS (default: all, one after the other). A try takes a sound file, changes it at random and reads it
in a process of its own, whose address space is limited. --keep: the first file of each different failure goes there.
Linux only. The exit status is 1 where a try failed.
"""

import argparse
import collections
import contextlib
import faulthandler
import functools
import gc
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [
    str(ROOT / part) for part in ('tests/caffe', 'tests', 'tools', 'lib', 'caffe-fast-rcnn/python')
]
os.environ.setdefault('OMP_NUM_THREADS', '1')

import _command  # noqa: E402
import cv2  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import caffe  # noqa: E402
import devkits  # noqa: E402
import fork_cases  # noqa: E402
import layer_cases  # noqa: E402
from caffe.format.prototxt import upgrade_net_text, upgrade_solver_text  # noqa: E402
from caffe.format.state import write_state  # noqa: E402
from caffe.format.weights import array_to_blobproto, read_weights, upgrade_net_binary, write_weights  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402
from caffe.types.sources.transformer import decode_image, read_file, read_mean  # noqa: E402
from datasets import labels, own  # noqa: E402
from datasets.coco_imdb import coco_imdb  # noqa: E402
from datasets.readers.images import image_size  # noqa: E402
from datasets.readers.selective_search import load_selective_search, save_selective_search  # noqa: E402
from datasets.readers.voc_xml import read_xml  # noqa: E402
from helpers import data, layer  # noqa: E402
from pipeline.settings import settle  # noqa: E402
from utils import safe_pickle  # noqa: E402
from utils.blob import read_image, read_upright  # noqa: E402
from utils.files import load_npz, pack, read_text, save_npz  # noqa: E402
from utils.param_str import parse_yaml  # noqa: E402
from utils.proposals import load_detections, load_proposals, save_detections, save_proposals  # noqa: E402

OURS = tuple(str(ROOT / part) for part in ('lib', 'caffe-fast-rcnn', 'tools'))
MEMORY, SECONDS = 2**30, 20
NET = (
    data('x', 1, 2, 4, 4)
    + layer('conv', 'Convolution', 'x', more='convolution_param { num_output: 3 kernel_size: 3 }')
    + layer('ip', 'InnerProduct', 'conv', more='inner_product_param { num_output: 2 }')
    + layer('loss', 'Reduction', 'ip', more='loss_weight: 1')
)
SOLVER = (
    'net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 momentum: 0.9 '
    'weight_decay: 0.01 max_iter: 3 snapshot_prefix: "s" type: "SGD" display: 1\n'
)


# ------------------------------------------------------------------------------------ sound files, and their readers
# SEEDS: kind -> a function of a folder that gives [(file name, its bytes, reader of a path)]; all are read in the folder
def run_net(path):
    for phase in caffe.TRAIN, caffe.TEST:
        net = caffe.Net(path, phase)
        if sum(blob.count for blob in net.blobs.values()) < 10**6:
            with contextlib.suppress(*_command.TOLD):  # the values it computes on are no file's
                net.forward()
    upgrade_net_text(path, 'upgraded.prototxt')


def run_solver(path):
    caffe.get_solver(path)


def prototxt_seeds(folder):
    for kind, cases in {**layer_cases.CASES, **fork_cases.CASES}.items():
        for it in cases:
            shapes = [make(np.random.default_rng(7)).shape for make in it.bottoms]
            text = ''.join(data(f'b{i}', *shape) for i, shape in enumerate(shapes))
            bottoms, tops = layer_cases.names('b', len(shapes)), layer_cases.names('t', it.tops)
            yield f'{kind}.prototxt', (text + layer('L', kind, bottoms, tops, it.more)).encode(), run_net
    (folder / 'net.prototxt').write_text(NET)
    cv2.imwrite('x.png', np.full((8, 8, 3), 7, np.uint8))
    (folder / 'list.txt').write_text('x.png 0\n')
    (folder / 'windows.txt').write_text('# 0\nx.png\n3\n8\n8\n2\n1 0.9 0 0 5 5\n0 0.1 2 2 6 6\n')
    for kind, more in (
        ('ImageData', 'image_data_param { batch_size: 2 source: "list.txt" new_height: 6 new_width: 6 }'),
        ('WindowData', 'transform_param { crop_size: 4 mirror: true } window_data_param { batch_size: 2 '
                       'fg_fraction: 0.5 context_pad: 1 source: "windows.txt" }'),
        ('MemoryData', 'memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }'),
    ):  # fmt: skip
        yield f'{kind}.prototxt', layer('x', kind, tops='x y', more=more).encode(), run_net
    dummy = 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "xavier" } }'
    yield 'dummy.prototxt', layer('x', 'DummyData', more=dummy).encode(), run_net
    yield 'plain.prototxt', NET.encode(), run_net
    for path in sorted((ROOT / 'tests/golden/upgrade').glob('*.prototxt')):
        upgrade = upgrade_solver_text if 'solver' in path.name else upgrade_net_text
        yield path.name, path.read_bytes(), lambda path, upgrade=upgrade: upgrade(path, 'upgraded.prototxt')
    for old, new in (
        ('', ''),
        ('"SGD"', '"Adam" momentum2: 0.9'),
        ('"step"', '"multistep" stepvalue: 1 stepvalue: 2'),
        ('max_iter: 3', 'max_iter: 3 iter_size: 2'),
    ):
        yield 'solver.prototxt', SOLVER.replace(old, new).encode(), run_solver


def small_net(folder):
    """A net of a layer `conv` and one `ip`, and its weights as rows of write_weights."""
    (folder / 'net.prototxt').write_text(NET)
    (folder / 'solver.prototxt').write_text(SOLVER)
    rng = np.random.default_rng(1)
    arrays = {'conv': [(3, 2, 3, 3), (3,)], 'ip': [(2, 12), (2,)]}
    return [
        (name, 'X', [rng.standard_normal(shape).astype('f') for shape in shapes], ['x'], [name])
        for name, shapes in arrays.items()
    ]


def copy_weights(path):
    caffe.Net('net.prototxt', path, caffe.TEST)


def read_binary(path):
    read_weights(path)
    upgrade_net_binary(path, 'upgraded.caffemodel')


def caffemodel_seeds(folder):
    rows = small_net(folder)
    write_weights('w.caffemodel', rows)
    yield 'w.caffemodel', (folder / 'w.caffemodel').read_bytes(), copy_weights
    yield 'w.caffemodel', (folder / 'w.caffemodel').read_bytes(), read_binary
    with zipfile.ZipFile('w.zip', 'w') as archive:
        archive.write('w.caffemodel')
    yield 'w.zip', (folder / 'w.zip').read_bytes(), copy_weights
    old = caffe_pb2.NetParameter()
    for name, _, arrays, *_ in rows:
        one = old.layers.add(name=name, type=caffe_pb2.V1LayerParameter.INNER_PRODUCT)
        one.blobs.extend(array_to_blobproto(array) for array in arrays)
    old.layers[0].blobs[0].ClearField('shape')
    old.layers[0].blobs[0].num, old.layers[0].blobs[0].channels = 3, 2
    old.layers[0].blobs[0].height = old.layers[0].blobs[0].width = 3
    yield 'old.caffemodel', old.SerializeToString(), copy_weights
    v0 = caffe_pb2.NetParameter()
    v0.layers.add().layer.MergeFrom(
        caffe_pb2.V0LayerParameter(name='ip', type='innerproduct', blobs=old.layers[1].blobs)
    )
    yield 'v0.caffemodel', v0.SerializeToString(), read_binary
    yield 'mean.binaryproto', array_to_blobproto(np.zeros((1, 3, 4, 4))).SerializeToString(), read_mean


def hdf5_seeds(folder):
    rows = small_net(folder)
    write_weights('w.h5', rows)
    yield 'w.h5', (folder / 'w.h5').read_bytes(), copy_weights
    write_state('s.solverstate.h5', 2, '', 1, [array for row in rows for array in row[2]])
    yield 's.solverstate.h5', (folder / 's.solverstate.h5').read_bytes(), restore
    for more in {}, {'compression': 'gzip', 'chunks': True}, {'maxshape': (None, 3)}:
        with h5py.File('rows.h5', 'w') as f:
            f.create_dataset('x', data=np.zeros((5, 3), 'f'), **more)
        yield 'rows.h5', (folder / 'rows.h5').read_bytes(), read_rows


def read_rows(path):
    Path('h5.txt').write_text(path)
    Path('rows.prototxt').write_text(
        layer('x', 'HDF5Data', more='hdf5_data_param { source: "h5.txt" batch_size: 2 }')
    )
    caffe.Net('rows.prototxt', caffe.TRAIN).forward()


def restore(path):
    solver = caffe.get_solver('solver.prototxt')
    solver.restore(path)
    solver.step(1)


def solverstate_seeds(folder):
    rows = small_net(folder)
    write_weights('w.caffemodel', rows)
    for model in '', 'w.caffemodel':
        write_state('s.solverstate', 2, model, 1, [array for row in rows for array in row[2]])
        yield 's.solverstate', (folder / 's.solverstate').read_bytes(), restore


def boxes_of(path):
    return [np.asarray(boxes).sum() for boxes in load_proposals(path)]


def boxes_beside(path):
    """Reads tried_p.json, of which `path` is a part; the other parts are as they were."""
    parts = {name: Path(name).read_bytes() for name in ('p.json', 'p.0of1.rows', 'p.0of1.table')}
    for name, content in parts.items():
        if path != f'tried_{name}':
            Path(f'tried_{name}').write_bytes(content)
    boxes_of('tried_p.json')


def proposal_seeds(folder):
    rng = np.random.default_rng(1)
    boxes, scores = [rng.random((n, 4)) for n in (3, 0, 5)], [rng.random((n, 1)) for n in (3, 0, 5)]
    rows, counts = pack(boxes, 4)
    for more in {}, {'scores': np.vstack(scores).astype('f')}:
        save_npz('p.npz', boxes=rows, counts=counts, **more)
        yield 'p.npz', (folder / 'p.npz').read_bytes(), boxes_of
    save_proposals('tried_p.json', boxes, scores)
    for name in 'p.json', 'p.0of1.rows', 'p.0of1.table':
        shutil.copy(f'tried_{name}', name)
        yield name, (folder / name).read_bytes(), boxes_beside
    save_detections('d.npz', [[rng.random((2, 5)), []]] * 3)
    yield 'd.npz', (folder / 'd.npz').read_bytes(), load_detections
    np.savez('plain.npz', a=np.arange(3), b=np.array('text'), c=np.zeros((2, 2), order='F'))
    yield 'plain.npz', (folder / 'plain.npz').read_bytes(), load_npz
    save_selective_search('p.mat', ['a', 'b'], [rng.integers(1, 9, (n, 4)) for n in (3, 2)])
    yield 'p.mat', (folder / 'p.mat').read_bytes(), lambda path: load_selective_search(path, ['a', 'b'])


def pickle_seeds(folder):
    boxes = [np.arange(8, dtype='f').reshape(2, 4), np.zeros((0, 4), 'f'), np.array([], dtype=object)]
    dets = [[np.ones((2, 5)), []], [np.asfortranarray(np.ones((2, 5))), []]]
    mixed = {
        'boxes': boxes,
        'flipped': True,
        'names': ('a', b'b'),
        'big': 2**70,
        'o': np.array(['s', None]),
        'f': np.float64(2),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield 'p.pkl', pickle.dumps(boxes, protocol), boxes_of
        yield 'd.pkl', pickle.dumps(dets, protocol), load_detections
        yield 'm.pkl', pickle.dumps(mixed, protocol), safe_pickle.load


def read_description(path):
    description = own.load(path)
    return own.make(description, description.train).gt_roidb()


def settle_by(path):
    settle(None, [path])


def yaml_seeds(folder):
    devkits.write_voc(folder / 'kit', {'a': [devkits.obj('cat', 1, 2, 9, 9)]}, {'train': ['a'], 'val': ['a']})
    for name in 'faster_rcnn_alt_opt', 'imagenet':
        yield 'cfg.yml', (ROOT / f'experiments/cfgs/{name}.yml').read_bytes(), settle_by
    yield (
        'tuple.yml',
        b'TRAIN: {SCALES: !!python/tuple [4, 5], MAX_SIZE: 7}\nPIXEL_MEANS: [1, 2, 3]',
        settle_by,
    )
    alias = b'TRAIN: &a {MAX_SIZE: 5}\nTEST: *a\nPIXEL_MEANS: &b [1, 0x2, 3_0]\nRNG_SEED: 0x1f\nEPS: 1.0e-3\n'
    yield 'alias.yml', alias, settle_by
    lists = ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9) if i else 1}]\n' for i in range(4)).encode()
    yield 'lists.yml', lists, lambda path: repr(parse_yaml(read_text(path), path))
    whole = (
        'name: mine\nformat: voc\nroot: kit\nclasses: [cat, dog]\nsplits: {train: kit/ImageSets/Main/train.txt, '
        'val: [a]}\ntrain: train\ntest: val\nbase: 0\ncfg: {TRAIN: {SCALES: [60]}}\nmax_iters: [1, 2, 3, 4]\n'
        'anchors: {scales: [8, 16.5], ratios: [1]}\n'
    )
    yield 'mine.yml', whole.encode(), read_description
    yield 'short.yml', b'name: mine\nformat: voc\nroot: kit\n', read_description


def xml_seeds(folder):
    devkits.write_xml(folder / 'a.xml', [devkits.obj('cat', 1, 2.5, 9, 9), devkits.obj('dog', 3, 2, 9, 9, 1)])
    yield 'a.xml', (folder / 'a.xml').read_bytes(), read_xml
    entity = b'<!DOCTYPE a [<!ENTITY x "9"><!ENTITY y "&x;&x;">]>'
    yield 'e.xml', b'<?xml version="1.0" encoding="utf-8"?>' + entity + Path('a.xml').read_bytes(), read_xml
    for path in sorted((ROOT / 'tests/golden/e2e/ImageNet2015/Annotations').rglob('*.xml'))[:2]:
        yield path.name, path.read_bytes(), read_xml


def read_annotations_of(path):
    truth = coco_imdb('zoo_train', 'train', path, 'images')
    return truth.gt_roidb(), truth.annotation_at(0)


def coco_seeds(folder):
    objects = [
        devkits.coco_object(3, 1, 2.5, 9, 9),
        devkits.coco_object(7, 0, 0, 9, 9, iscrowd=1, segmentation={}),
    ]
    images = {'a.jpg': (60, 40, objects), 'b.jpg': (60, 40, [])}
    devkits.write_coco(folder / 'c.json', images, {3: 'cat', 7: 'dog'})
    yield 'c.json', (folder / 'c.json').read_bytes(), read_annotations_of


def see(path):
    """All readers of images."""
    for read in read_image, read_upright, image_size, caffe.io.load_image:
        _ending_well(read, path)
    _ending_well(lambda path: decode_image(read_file(path), path), path)


def image_seeds(folder):
    pixels = np.random.default_rng(1).integers(0, 255, (9, 14, 3)).astype(np.uint8)
    for name, *options in (
        ('a.jpg',), ('a.png',), ('a.bmp',), ('a.webp',), ('a.tif',), ('p.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    ):  # fmt: skip
        cv2.imwrite(name, pixels, options)
        yield name, (folder / name).read_bytes(), see
    cv2.imwrite('deep.png', pixels[:, :, 0].astype(np.uint16) * 200)
    Image.fromarray(pixels).convert('P').save('palette.png')
    Image.fromarray(pixels).convert('CMYK').save('cmyk.jpg')
    Image.fromarray(pixels).save('g.gif')
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save('turned.jpg', exif=turned)
    for name in 'deep.png', 'palette.png', 'cmyk.jpg', 'g.gif', 'turned.jpg':
        yield name, (folder / name).read_bytes(), see


LABELS = {
    'yolo': ('a.txt', '1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.9 0.1 0.5 0.8\n'),
    'yolo_names': ('data.yaml', 'train: images\nval: [images, list.txt]\nnames: {0: cat, 1: dog}\n'),
    'csv': ('t.csv', 'image,width,height,class,x1,y1,x2,y2,difficult\na.png,14,9,"cat, dog",1,2,8,9,1\na.png,,,,,,,,\n'),
    'labelme': ('a.json', json.dumps({'imagePath': 'a.png', 'imageWidth': 14, 'imageHeight': 9, 'imageData': None, 'shapes': [
        {'label': 'cat', 'points': [[1, 1], [5, 6]], 'shape_type': 'rectangle', 'flags': {'difficult': True}},
        {'label': 'dog', 'points': [[1, 1], [5, 6], [2, 8]], 'shape_type': 'polygon', 'group_id': 1},
        {'label': 'sun', 'points': [[5, 5], [5, 7]], 'shape_type': 'circle'}]})),
    'cvat': ('a.xml', '<annotations><image id="0" name="a.png" width="14" height="9" subset="train"><box label="cat" xtl="1" '
             'ytl="1" xbr="5" ybr="6" rotation="9.5"><attribute name="difficult">true</attribute></box><polygon label="dog" '
             'points="1,1;5,6;2,8"/><mask label="m" rle="0, 2, 1, 1" left="4" top="6" width="2" height="2"/></image></annotations>'),
    'cvat_video': ('a.xml', '<annotations><meta><task><size>3</size><original_size><width>14</width><height>9</height>'
                   '</original_size></task></meta><track id="0" label="cat"><box frame="0" outside="0" xtl="1" ytl="1" xbr="5" '
                   'ybr="6"/></track></annotations>'),
    'coco_masks': ('annotations/instances_train.json', json.dumps({'images': [
        {'id': 1, 'file_name': 'a.png', 'width': 14, 'height': 9}], 'categories': [{'id': 1, 'name': 'cat'}], 'annotations': [
        {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 4, 5], 'segmentation': [[1, 1, 5, 6, 2, 8]], 'iscrowd': 0},
        {'id': 2, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 4, 5], 'segmentation': {'size': [9, 14], 'counts': [5, 121]}}]})),
    'voc_beside': ('a.xml', '<annotation><object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>'
                   '<xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>'),
}  # fmt: skip


def label_seeds(folder):
    """Each file in a folder of its own, with a picture; what is tried is put into its place, and errors name that."""
    for kind, (name, text) in LABELS.items():
        root = folder / kind
        (root / name).parent.mkdir(parents=True)
        cv2.imwrite(
            str(root / ('a_000000.png' if kind == 'cvat_video' else 'a.png')), np.zeros((9, 14, 3), np.uint8)
        )
        if kind == 'yolo':
            (root / 'classes.txt').write_text('cat\ndog\n')
        if kind == 'yolo_names':
            (root / 'images').mkdir()
            (root / 'list.txt').write_text('a.png\n')
            (root / 'a.txt').write_text('0 .5 .5 .5 .5')
        read = functools.partial(read_labels, kind.partition('_')[0], str(root), name)
        yield f'{kind}{Path(name).suffix}', text.encode(), read


def read_labels(kind, root, name, path):
    shutil.copy(path, os.path.join(root, name))
    try:
        found = labels.read(kind, root)
        for module in labels.FORMATS.values():
            module.write({'train': found.images}, labels.classes_of(found), collections.Counter())
    except _command.TOLD as error:
        raise type(error)(str(error).replace(os.path.join(root, name), path)) from error


SEEDS = {
    'prototxt': prototxt_seeds,
    'caffemodel': caffemodel_seeds,
    'hdf5': hdf5_seeds,
    'solverstate': solverstate_seeds,
    'proposals': proposal_seeds,
    'pickle': pickle_seeds,
    'yaml': yaml_seeds,
    'xml': xml_seeds,
    'coco': coco_seeds,
    'image': image_seeds,
    'labels': label_seeds,
}


# ------------------------------------------------------------------------------------ changes
NUMBERS = (
    0,
    1,
    2,
    7,
    64,
    255,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    -1,
    -(2**31),
)
WORDS = (
    '0 -1 1 1e9 1e39 1e400 inf nan 2147483647 2147483648 9223372036854775807 99999999999999999999999 -0.0 "" "x" {} [] '
    "true null & * << ? | > ' # % ! !!int !!float !!binary !!timestamp !!python/tuple 2001-99-99 &x; &#0; <![CDATA[ "
    '&a *a [*a,*a] [[[[[ {{{{{'
).split()


def change_bytes(rng, data, other):
    """One random change of bytes; other: another sound file's."""
    data, at = bytearray(data), rng.randrange(len(data) + 1)
    how = rng.randrange(8)
    if how == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif how == 1 and data:
        data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif how in (2, 3):
        size, order = rng.choice((1, 2, 4, 8)), rng.choice(('little', 'big'))
        data[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, order)
    elif how == 4:
        del data[at : at + rng.choice((1, 4, 30, len(data)))]
    elif how == 5:
        data[at:at] = data[at : at + rng.choice((1, 8, 100))] * rng.choice((1, 2, 50))
    elif how == 6:
        data[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
    else:
        start = rng.randrange(len(other) + 1)
        data[at : at + rng.choice((0, 20))] = other[start : start + rng.choice((4, 60))]
    return bytes(data)


def change_text(rng, data, other):
    """One random change of words."""
    words = re.findall(rb'\s+|[\w.+-]+|.', data, re.DOTALL) or [b' ']
    others = re.findall(rb'[\w.+-]+', other) or [b'x']
    at, how = rng.randrange(len(words)), rng.randrange(8)
    numbers = [i for i, word in enumerate(words) if word.strip(b'-+.').isdigit()]
    if how in (0, 1, 2) and numbers:
        at = rng.choice(numbers)
        words[at] = rng.choice((str(rng.choice(NUMBERS)), rng.choice(WORDS))).encode()
    elif how == 3:
        words[at] = rng.choice(WORDS).encode()
    elif how == 4:
        words[at] = rng.choice(others)
    elif how == 5:
        del words[at : at + rng.choice((1, 2, 10))]
    elif how == 6:
        words[at:at] = words[at : at + rng.choice((1, 10, 40))] * rng.choice((1, 1, 2000))
    else:
        return change_bytes(rng, data, other)
    return b''.join(words)


def change_zip(rng, data, other):
    """Changes one member of a zip file and packs all anew, so that lengths and checksums fit."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                change = change_text if rng.random() < 0.5 else change_bytes
                content = change(rng, content[:128], other) + content[128:]
            new.writestr(name, content)
    return stream.getvalue()


def change_png(rng, data, other):
    """Changes the header chunk of a PNG file, whose checksum then fits."""
    header = bytearray(data[12:29])
    at = rng.choice((4, 8, rng.randrange(4, 17)))
    value = struct.pack('>I', rng.choice(NUMBERS) % 2**32) if at <= 8 else bytes([rng.randrange(256)])
    header[at : at + len(value)] = value
    header = bytes(header[:17])
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def changed(rng, name, data, other):
    """The bytes of a file after one to five random changes."""
    text = name.endswith(('.prototxt', '.yml', '.xml', '.json'))
    special = {'.npz': change_zip, '.png': change_png}.get(os.path.splitext(name)[1])
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        if special and rng.random() < 0.6:
            try:
                data = special(rng, data, other)
            except (zipfile.BadZipFile, struct.error, KeyError, EOFError, OSError, NotImplementedError,
                    RuntimeError, ValueError, IndexError, zlib.error):  # fmt: skip
                data = change_bytes(rng, data, other)  # an earlier change broke it
        else:
            data = (change_text if text else change_bytes)(rng, data, other)
    return data


# ------------------------------------------------------------------------------------ a try
def _ending_well(read, path):
    """None where read(path) gave an answer or an error that a tool tells and that names the file."""
    try:
        read(path)
    except (*_command.TOLD, pickle.UnpicklingError) as error:
        name = os.path.basename(path).partition('.')[
            0
        ]  # an index names its shards, which have another ending
        other = getattr(error, 'filename', None) or os.getcwd() in str(
            error
        )  # another file is at fault, and named
        if not other and name not in str(error):
            raise AssertionError('names no file') from error


class Reader:
    """A process that tries files, forked from this one; a new one after `most` tries, and where one has failed."""

    def __init__(self, readers, most=200):
        self.readers, self.most, self.left = readers, most, 0

    def judge(self, number, path):
        """(verdict, more) of reading `path` by readers[number]: 'answer', or what is wrong."""
        if not self.left:
            self.end()
            self.start()
        self.left -= 1
        self.socket.sendall(f'{number} {path}\n'.encode())
        in_time = select.select([self.socket], [], [], 10 * SECONDS)[0]
        said = self.socket.recv(4096) if in_time else b''
        if said:
            return tuple(json.loads(said))
        self.left = 0
        if not in_time:
            return 'waits', ''
        code = os.waitstatus_to_exitcode(self.wait())
        if code == -signal.SIGPROF:
            return 'hangs', _last_frame('hang.txt')
        return 'crashes', f'{code} {_last_frame("crash.txt")}'

    def start(self):
        self.socket, theirs = socket.socketpair()
        self.left, self.child = self.most, os.fork()
        if not self.child:
            self.socket.close()
            serve(self.readers, theirs)
        theirs.close()

    def wait(self):
        child, self.child = self.child, None
        return os.waitpid(child, 0)[1]

    def end(self):
        if getattr(self, 'child', None):
            os.kill(self.child, signal.SIGKILL)
            self.wait()


def serve(readers, requests):
    """In the child: limits, then a verdict for each request, until one is bad."""
    pages, resident = memory()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY - resident,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    crash, hang = open('crash.txt', 'w'), open('hang.txt', 'w')
    faulthandler.enable(crash)
    faulthandler.register(signal.SIGPROF, hang, chain=True)  # and then it ends the process
    for stream in sys.stdout, sys.stderr:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    for line in requests.makefile():
        number, _, path = line.strip().partition(' ')
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        Path('/proc/self/clear_refs').write_text('5')  # the peak of memory begins anew
        verdict = verdict_of(readers[int(number)], path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) << 10
        if peak > MEMORY:
            verdict = 'memory', f'{peak >> 20} MB'
        requests.sendall(json.dumps(verdict).encode())
    os._exit(0)


def memory():
    """(size of the address space, resident memory) of this process, in bytes."""
    words = Path('/proc/self/statm').read_text().split()
    return [int(word) * resource.getpagesize() for word in words[:2]]


def verdict_of(read, path):
    try:
        _ending_well(read, path)
    except BaseException as error:  # whatever it is, it is what a try must not end with
        cause = error.__cause__ if isinstance(error, AssertionError) and error.__cause__ else error
        frames = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename.startswith(OURS)]
        place = f'{os.path.relpath(frames[-1].filename, ROOT)}:{frames[-1].lineno}' if frames else ''
        what = 'names no file' if cause is not error else 'no error of a user'
        return what, f'{type(cause).__name__} {place}: {cause}'[:600]
    return 'answer', ''


def _last_frame(path):
    frames = re.findall(r'File "(.+)", line (\d+)', Path(path).read_text())
    ours = [f'{os.path.relpath(name, ROOT)}:{line}' for name, line in frames if name.startswith(OURS)]
    return ours[0] if ours else ''


def fuzz(kind, seconds, tries, seed, keep):
    """Tries of one kind -> Counter of verdicts; prints each different failure once."""
    rng, found, verdicts = random.Random(f'{kind} {seed}'), set(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seeds = list(SEEDS[kind](Path(folder)))
        for (
            name,
            data,
            read,
        ) in seeds:  # unchanged, all are sound; and this process imports what reading them does
            Path(name).write_bytes(data)
            read(name)
        gc.collect()
        reader = Reader([read for *_, read in seeds])
        end = time.monotonic() + seconds
        while time.monotonic() < end and sum(verdicts.values()) < tries:
            name, data, read = rng.choice(seeds)
            tried = changed(rng, name, data, rng.choice(seeds)[1])
            path = f'tried_{name}'
            Path(path).write_bytes(tried)
            verdict, more = reader.judge(seeds.index((name, data, read)), path)
            verdicts[verdict] += 1
            signature = verdict, more.split(': ')[0]
            if verdict != 'answer' and signature not in found:
                found.add(signature)
                kept = f'{kind}_{hashlib.sha1(tried).hexdigest()[:8]}_{name}'
                print(f'{kind}: {verdict}: {more} [{kept}]', flush=True)
                if keep:
                    shutil.copy(path, Path(keep) / kept)
        reader.end()
        os.chdir(ROOT)
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kinds', nargs='*', metavar='KIND', help=', '.join(SEEDS))
    parser.add_argument('--seconds', type=float, default=60, help='of each kind')
    parser.add_argument('--tries', type=int, default=10**9, help='of each kind, at most')
    parser.add_argument('--seed', default='0')
    parser.add_argument('--keep', type=os.path.abspath)
    args = parser.parse_args()
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    failed = False
    for kind in args.kinds or SEEDS:
        verdicts = fuzz(kind, args.seconds, args.tries, args.seed, args.keep)
        print(f'{kind}: {sum(verdicts.values())} tries, {dict(verdicts)}', flush=True)
        failed = failed or set(verdicts) > {'answer'} or not verdicts
    sys.exit(int(failed))


if __name__ == '__main__':
    main()

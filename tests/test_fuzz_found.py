"""What tests/fuzz.py has found: files that once ended in an error without their name, in one that no tool tells, in
gigabytes of memory or in a dead process. Each must be refused by name, and cost little."""

import importlib
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
import zlib

import _command
import caffe
import cv2
import h5py
import numpy as np
import pytest
from caffe.format.state import read_state, write_state
from caffe.format.weights import read_weights, upgrade_net_binary, write_weights
from caffe.proto import caffe_pb2
from caffe.types.sources.transformer import decode_image

from datasets import own
from datasets.readers.images import image_size
from datasets.readers.selective_search import load_selective_search, save_selective_search
from datasets.readers.voc_xml import read_xml
from fast_rcnn.config import cfg_from_file
from utils import safe_pickle
from utils.blob import read_image, read_upright
from utils.files import load_npz
from utils.proposals import load_detections, load_proposals, save_proposals


@pytest.fixture(autouse=True)
def little_memory():
    """No test here gets more than half a GB beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm') as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(read, path, *words):
    """read(path) raises what a tool tells in a line, with the file's name."""
    with pytest.raises((ValueError, OSError), match=os.path.basename(path)) as error:
        read(str(path))
    for word in words:
        assert word in str(error.value)


# ---------------------------------------------------------------------------------------------- .npz
def npy(shape, content=b'', dtype='<f4'):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + '\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode() + content


@pytest.mark.parametrize(
    'content',
    [
        npy('(8589934592,)', bytes(16)),
        npy('(-4, -1)', bytes(16)),
        npy('(2, 2', bytes(16)),
        npy('(4,)', bytes(16), '<f9'),
        npy('(4,)', bytes(32), '|O'),
        b'no array',
    ],
)
def test_npz_members_that_hold_less_than_they_say(tmp_path, content):
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        archive.writestr('boxes.npy', content)
    refused(load_npz, tmp_path / 'x.npz')


def test_npz_whose_directory_claims_what_deflate_cannot_hold(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('boxes.npy', npy('(1000000000,)', bytes(99)))
    size = len(npy('()'))
    whole = stream.getvalue().replace(
        struct.pack('<I', size + 99), struct.pack('<I', size + 4 * 10**9 % 2**32)
    )
    (tmp_path / 'x.npz').write_bytes(whole)
    refused(load_npz, tmp_path / 'x.npz')


def test_npz_with_a_damaged_stream(tmp_path):
    np.savez_compressed(tmp_path / 'x.npz', a=np.arange(999))
    whole = bytearray((tmp_path / 'x.npz').read_bytes())
    whole[60:80] = bytes(20)
    (tmp_path / 'x.npz').write_bytes(whole)
    refused(load_npz, tmp_path / 'x.npz')


@pytest.mark.parametrize(
    'arrays',
    [
        {'boxes': np.zeros((3, 4)), 'counts': np.array(3)},
        {'boxes': np.zeros((3, 4)), 'counts': np.array([5, -2])},
        {'boxes': np.zeros(12), 'counts': np.array([3])},
        {'boxes': np.zeros((3, 4)), 'counts': np.array(['three'])},
        {'boxes': np.zeros((3, 4)), 'scores': np.zeros(3), 'counts': np.array([3])},
    ],
)
def test_proposals_that_do_not_fit_their_counts(tmp_path, arrays):
    np.savez(tmp_path / 'p.npz', **arrays)
    refused(load_proposals, tmp_path / 'p.npz')
    np.savez(tmp_path / 'd.npz', rows=arrays['boxes'], counts=arrays['counts'])
    refused(load_detections, tmp_path / 'd.npz')


def test_an_index_of_no_sense(tmp_path):
    for text in '{"images": 1e999, "columns": 4, "shards": 1}', '{', '{"columns": [4]}', '{}':
        (tmp_path / 'p.json').write_text(text)
        refused(load_proposals, tmp_path / 'p.json')
    save_proposals(str(tmp_path / 'p.json'), [np.zeros((2, 4))])
    index = (tmp_path / 'p.json').read_text()
    (tmp_path / 'p.json').write_text(index.replace('"images": 1', f'"images": {10**20}'))
    with pytest.raises(ValueError, match='p.0of1.table: wanted 100000000000000000000 images'):
        load_proposals(str(tmp_path / 'p.json'))


# ---------------------------------------------------------------------------------------------- pickles
class Asks:
    """Pickled as a call of `function` with `args`, then with `state` to take."""

    def __init__(self, function, args, *state):
        self.parts = function, args, *state

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    'content',
    [
        pickle.BYTEARRAY8 + (2**40).to_bytes(8, 'little') + b'x.',
        pickle.BINUNICODE + b'\x01',
        pickle.dumps(Asks(np.dtype, ('V1000000000',))),
        pickle.dumps(Asks(np.dtype, ('f8', False, True), (3, '<', ('a',), {}, None, -1, -1, 0))),
        pickle.dumps(Asks(np.dtype, ('f8', False, True), (3, '<', None, None, None, 10**9, -1, 0))),
        pickle.dumps(Asks(np.dtype, ('f8', False, True), ('<',))),
    ],
)
def test_pickles_of_no_sense(tmp_path, content):
    (tmp_path / 'x.pkl').write_bytes(content)
    refused(safe_pickle.load, tmp_path / 'x.pkl')


def test_a_pickle_does_not_turn_the_bytes_of_numpys_own_numbers(tmp_path):
    turned = Asks(np.dtype, ('f4', False, False), (3, '>', None, None, None, -1, -1, 0))
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(turned))
    assert safe_pickle.load(tmp_path / 'x.pkl') == np.dtype('>f4')
    assert np.dtype('f4') == np.dtype('<f4') and np.frombuffer(b'\0\0\x80\x3f', 'f4') == 1


@pytest.mark.parametrize('value', [{'a': 1}, 7, ['text'], [[['text']]], [[np.zeros((2, 3))]]])
def test_pickles_of_no_boxes(tmp_path, value):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(value))
    refused(load_proposals, tmp_path / 'x.pkl')
    refused(load_detections, tmp_path / 'x.pkl')


# ---------------------------------------------------------------------------------------------- YAML, XML, MATLAB
LISTS = ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9) if i else 1}]\n' for i in range(12))


@pytest.mark.parametrize(
    'text',
    [
        'a: !!timestamp foo',
        'a: 2001-99-99',
        "a: !!int ''",
        'a: !!bool foo',
        '[' * 2000,
        LISTS,
        'a: &a [*a]',
        'EXP_DIR: !!float x',
        f'EPS: 1{"0" * 400}',
        f'PIXEL_MEANS: [1, 2, 1{"0" * 5000}]',
    ],
)
def test_yaml_of_no_sense(tmp_path, text):
    (tmp_path / 'c.yml').write_text(text)
    refused(cfg_from_file, tmp_path / 'c.yml')


def test_a_split_that_is_a_folder_is_named(tmp_path):
    (tmp_path / 'sets').mkdir()
    text = 'name: mine\nformat: voc\nroot: .\nclasses: [cat]\nsplits: {train: sets}\n'
    (tmp_path / 'mine.yml').write_text(text)
    with pytest.raises(OSError, match='sets') as error:
        own.load(str(tmp_path / 'mine.yml'))
    assert _command.message(error.value) == f'{tmp_path}/sets: is a folder, not a file'


def test_a_size_in_an_annotation_that_is_no_number_counts_as_missing(tmp_path):
    for number in '1e400', 'inf', 'nan', '', '-3':
        text = f'<annotation><size><width>{number}</width><height>4</height></size></annotation>'
        (tmp_path / 'a.xml').write_text(text)
        assert read_xml(str(tmp_path / 'a.xml')).size is None


def test_matlab_files_of_no_sense(tmp_path):
    """At some of them scipy's reader dies, at others it asks for gigabytes."""
    path = tmp_path / 'p.mat'
    save_selective_search(str(path), ['a'], [np.ones((3, 4))])
    whole = path.read_bytes()
    for content in whole[:100], whole[:200], whole[:128] + b'\xff' * 60, b'', bytes(999):
        path.write_bytes(content)
        refused(lambda path: load_selective_search(path, ['a']), path)


# ---------------------------------------------------------------------------------------------- images
def png(width, height):
    def chunk(kind, content):
        return (
            struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(99)))
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize('size', [(32768, 32768), (13000, 13000), (2**31 - 1, 1)])
def test_images_that_claim_more_pixels_than_they_hold(tmp_path, size):
    (tmp_path / 'a.png').write_bytes(png(*size))
    for read in read_image, read_upright, caffe.io.load_image:
        refused(read, tmp_path / 'a.png')
    refused(lambda path: decode_image(np.fromfile(path, np.uint8), path), tmp_path / 'a.png')


def test_images_of_no_sense(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 5) + b'IHDR' + bytes(9))
    for read in image_size, read_image, read_upright:
        refused(read, tmp_path / 'a.png')
    cv2.imwrite(str(tmp_path / 'a.bmp'), np.zeros((1, 1, 3), np.uint8))
    content = bytearray((tmp_path / 'a.bmp').read_bytes())
    content[22:26] = struct.pack('<i', 2**21)  # the height, beyond what OpenCV takes
    (tmp_path / 'a.bmp').write_bytes(content)
    refused(read_image, tmp_path / 'a.bmp')


def test_an_image_of_one_colour_may_be_large(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((5000, 5000), np.uint8))
    assert read_image(str(tmp_path / 'a.png')).shape == (5000, 5000, 3)


# ---------------------------------------------------------------------------------------------- HDF5, weights, states
@pytest.mark.parametrize(
    'shape, more',
    [
        ((2**31, 9), {'dtype': 'f4', 'chunks': (1024, 9)}),
        ((2**40,), {'dtype': 'f4', 'chunks': (99,), 'compression': 'gzip'}),
        ((3,), {'dtype': 'S9'}),
    ],
)
def test_hdf5_arrays_that_are_not_in_the_file(tmp_path, shape, more):
    """A header of a few bytes that stands for terabytes of zeros."""
    with h5py.File(tmp_path / 'w.h5', 'w') as f:
        f.create_dataset('data/ip/0', shape, **more)
    refused(read_weights, tmp_path / 'w.h5')
    with h5py.File(tmp_path / 's.h5', 'w') as f:
        f['iter'] = 3
        f.create_dataset('history/0', shape, **more)
    refused(read_state, tmp_path / 's.h5')


def test_damaged_hdf5_files(tmp_path):
    write_state(str(tmp_path / 's.h5'), 2, '', 1, [np.zeros((3, 4), 'f')])
    whole = (tmp_path / 's.h5').read_bytes()
    for place in range(0, min(len(whole), 2000), 40):
        (tmp_path / 'd.h5').write_bytes(whole[:place] + b'\xff' * 16 + whole[place + 16 :])
        for read in read_state, read_weights:
            try:
                read(str(tmp_path / 'd.h5'))
            except (ValueError, OSError) as error:
                assert 'd.h5' in str(error)


def test_an_old_net_of_an_unknown_type_is_named(tmp_path):
    net = caffe_pb2.NetParameter()
    net.layers.add().layer.MergeFrom(caffe_pb2.V0LayerParameter(name='ip', type='innerpro'))
    (tmp_path / 'v0.caffemodel').write_bytes(net.SerializeToString())
    refused(lambda path: upgrade_net_binary(path, tmp_path / 'new'), tmp_path / 'v0.caffemodel', "'innerpro'")


def test_a_layers_name_that_is_no_text(tmp_path):
    write_weights(str(tmp_path / 'w.caffemodel'), [('name', 'X', [np.zeros(2)], [], [])])
    whole = (tmp_path / 'w.caffemodel').read_bytes()
    (tmp_path / 'w.caffemodel').write_bytes(whole.replace(b'name', b'n\xffme'))
    assert read_weights(tmp_path / 'w.caffemodel')[0][0] == 'n\ufffdme'


# ---------------------------------------------------------------------------------------------- prototxts
CONV = 'type: "Convolution" convolution_param { num_output: %d kernel_size: %d }'


@pytest.mark.parametrize(
    'shape, more, named',
    [
        ((2**31, 2), '', 'x'),
        ((2**62, 2**62), '', 'x'),
        ((3, -1), '', 'x'),
        ((1, 2, 8, 8), CONV % (2**31 - 1, 3), 'y'),
        ((1, 2, 8, 8), CONV % (3, 9), 'y'),
        ((2, 3), 'type: "InnerProduct" inner_product_param { num_output: 200000000 }', 'y'),
        ((2, 3), 'type: "Reshape" reshape_param { shape { dim: 7 } }', 'y'),
    ],
)
def test_nets_that_cannot_be_made_say_file_and_layer(tmp_path, shape, more, named):
    dims = ' '.join(f'dim: {d}' for d in shape)
    text = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'
    text += f'layer {{ name: "y" bottom: "x" top: "y" {more} }}\n' if more else ''
    (tmp_path / 'net.prototxt').write_text(text)
    refused(lambda path: caffe.Net(path, caffe.TEST), tmp_path / 'net.prototxt', repr(named))


@pytest.mark.parametrize('number, why', [(2**31 - 1, 'a blob holds'), (2**24, 'more than there is room for')])
@pytest.mark.parametrize('kind', ['ImageData', 'WindowData'])
def test_a_batch_that_nothing_holds_is_refused_after_one_image(tmp_path, monkeypatch, kind, number, why):
    read, module = [], importlib.import_module(f'caffe.types.sources.{kind[:-4].lower()}s')
    monkeypatch.setattr(module, 'decode_image', lambda *a: read.append(1) or decode_image(*a))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('x.png', np.full((4, 4, 3), 7, np.uint8))
    (tmp_path / 'image.txt').write_text('x.png 0\n')
    (tmp_path / 'window.txt').write_text('# 0\nx.png\n3\n4\n4\n2\n1 0.9 0 0 3 3\n0 0.1 1 1 3 3\n')
    param = f'{kind[:-4].lower()}_data_param {{ batch_size: {number} source: "{kind[:-4].lower()}.txt" }}'
    (tmp_path / 'net.prototxt').write_text(
        f'layer {{ name: "x" type: "{kind}" top: "x" top: "y" transform_param {{ crop_size: 4 }} {param} }}'
    )
    words = "'x'", f'batch_size {number} of shape (3, 4, 4)', why
    refused(lambda path: caffe.Net('net.prototxt', caffe.TEST), tmp_path / 'net.prototxt', *words)
    assert len(read) == 1


# ---------------------------------------------------------------------------------------------- the script
def spin(path):
    while True:
        pass


def test_what_takes_too_much_of_the_processor_hangs_and_the_next_is_tried(tmp_path, monkeypatch):
    fuzz = importlib.import_module('fuzz')
    monkeypatch.setattr(fuzz, 'SECONDS', 0.2)
    monkeypatch.setattr(fuzz, 'MEMORY', 64 << 30)  # this process may have had many tests before
    monkeypatch.chdir(tmp_path)
    reader = fuzz.Reader([spin, len])
    assert [reader.judge(number, 'x') for number in (0, 1)] == [('hangs', ''), ('answer', '')]
    reader.end()


def test_some_tries():
    """Of the kinds that begin quickly."""
    script = os.path.join(os.path.dirname(__file__), 'fuzz.py')
    kinds = 'caffemodel', 'hdf5', 'proposals', 'pickle', 'yaml', 'xml', 'image'
    done = subprocess.run(
        [sys.executable, script, *kinds, '--tries', '30', '--seconds', '30'],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr

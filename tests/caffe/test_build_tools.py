"""The programs in caffe-fast-rcnn/build/tools, called as old recipes call them: by their path."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import caffe
from helpers import layer

TOOLS = Path(__file__).parents[2] / 'caffe-fast-rcnn' / 'build' / 'tools'


def run(folder, tool, *args):
    """Call the program in `folder`, with the python of this test before others on the path."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']])
    done = subprocess.run(
        [TOOLS / tool, *args], cwd=folder, env={**os.environ, 'PATH': path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def constant(name, columns, value):
    return layer(
        name,
        'DummyData',
        more=f"""dummy_data_param {{ shape {{ dim: 2 dim: {columns} }}
                                             data_filler {{ value: {value} }} }}""",
    )


def test_training(tmp_path):
    net = (
        constant('data', 3, 1)
        + constant('four', 1, 4)
        + layer('ip', 'InnerProduct', 'data', more='inner_product_param { num_output: 1 }')
        + layer('loss', 'EuclideanLoss', 'ip four')
    )
    (tmp_path / 'net.prototxt').write_text(net)
    (tmp_path / 'solver.prototxt').write_text('''
        net: "net.prototxt" base_lr: 0.25 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "out"''')
    run(tmp_path, 'caffe', 'train', '--solver=solver.prototxt')
    weights = caffe.Net(str(tmp_path / 'net.prototxt'), str(tmp_path / 'out_iter_1.caffemodel'), caffe.TEST)
    assert weights.forward()['loss'] == 0  # three weights and the bias, each 0.25 times 4


def test_images_become_a_database_and_a_mean(tmp_path):
    for i in range(2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((6, 4, 3), 10 * i + 1, np.uint8))
    (tmp_path / 'list.txt').write_text('0.png 0\n1.png 1\n')
    size = '--resize_height=3', '--resize_width=2'
    run(tmp_path, 'convert_imageset', *size, f'{tmp_path}/', 'list.txt', 'db')
    run(tmp_path, 'compute_image_mean', 'db', 'mean.binaryproto')
    mean = caffe.proto.caffe_pb2.BlobProto.FromString((tmp_path / 'mean.binaryproto').read_bytes())
    mean = caffe.io.blobproto_to_array(mean)
    assert mean.shape == (1, 3, 3, 2) and (mean == 6).all()


def test_an_old_net_is_upgraded(tmp_path):
    (tmp_path / 'old.prototxt').write_text(
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 '
        'layers { name: "y" type: RELU bottom: "x" top: "y" }'
    )
    run(tmp_path, 'upgrade_net_proto_text', 'old.prototxt', 'new.prototxt')
    net = caffe.Net(str(tmp_path / 'new.prototxt'), caffe.TEST)
    assert [x.type for x in net.layers] == ['Input', 'ReLU']
    assert 'layers' not in (tmp_path / 'new.prototxt').read_text()


@pytest.mark.parametrize('tool', sorted(path.name for path in TOOLS.iterdir()))
def test_they_can_be_run(tool):
    assert os.access(TOOLS / tool, os.X_OK)

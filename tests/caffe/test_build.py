"""What building a net takes: no operator runs in full for a shape, and no part of torch that shapes do not need is
imported."""

import os
import subprocess
import sys

import pytest
import torch

import caffe
from caffe import tape
from helpers import data, layer, net_from

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = """
import sys
import _init_paths, caffe
from fast_rcnn.config import cfg, cfg_from_file, cfg_restore, cfg_values
before = cfg_values()
for settings, net, has_rpn in (
    ('faster_rcnn_alt_opt', 'ResNet-10/faster_rcnn_alt_opt/stage1_rpn_train.pt', True),
    ('faster_rcnn_alt_opt', 'ResNet-10/faster_rcnn_alt_opt/stage1_fast_rcnn_train.pt', False),
    ('faster_rcnn_alt_opt', 'ResNet-10/faster_rcnn_alt_opt/faster_rcnn_test.pt', False),
    ('faster_rcnn_alt_opt', 'ZF/faster_rcnn_alt_opt/rpn_test.pt', False),
    ('faster_rcnn_end2end', 'ResNet-10/faster_rcnn_end2end/train.prototxt', True),
    ('rfcn_end2end_ohem', 'ResNet-10/rfcn_end2end/train_agnostic_ohem.prototxt', True),
):
    cfg_restore(before)
    cfg_from_file(f'experiments/cfgs/{settings}.yml')
    cfg.TRAIN.HAS_RPN, cfg.TRAIN.IMS_PER_BATCH = has_rpn, 1
    caffe.Net(f'models/pascal_voc/{net}', caffe.TEST if 'test' in net else caffe.TRAIN)
    for module in ('torch._dynamo', 'sympy', 'scipy', 'matplotlib'):
        assert module not in sys.modules, (net, module)
"""


def test_model_nets_are_built_without_what_compiles_nets():
    path = os.pathsep.join(os.path.join(ROOT, f) for f in ('tools', 'lib', 'caffe-fast-rcnn/python'))
    env = {**os.environ, 'PYTHONPATH': path}
    done = subprocess.run([sys.executable, '-c', BUILD], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def devices_of(kind, bottoms, more, folder, monkeypatch):
    """Where compute ran, and for how many numbers of its first bottom, when the net with a layer of this kind was
    built; and the shape of its top."""
    seen = []
    run = tape.TorchLayer._run

    def watched(self, tensors, *shapes):
        seen.append((tensors[0].device.type, tensors[0].numel()))
        return run(self, tensors, *shapes)

    monkeypatch.setattr(tape.TorchLayer, '_run', watched)
    names = ['a', 'b'][: len(bottoms)]
    text = ''.join(data(name, *shape) for name, shape in zip(names, bottoms))
    net = net_from(folder, text + layer('y', kind, ' '.join(names), more=more))
    return seen, net.blobs['y'].shape


CONVOLVES = 'convolution_param { num_output: 4 kernel_size: 3 stride: 2 }'


@pytest.mark.parametrize(
    'kind, bottoms, more, where, shape',
    [
        ('Convolution', [(2, 3, 9, 9)], CONVOLVES, ('cpu', 0), (2, 4, 4, 4)),  # item by item: no items
        ('Eltwise', [(2, 3), (2, 3)], '', ('cpu', 0), (2, 3)),
        ('Softmax', [(2, 3)], 'softmax_param { axis: 0 }', ('cpu', 0), (2, 3)),
        (
            'Scale',
            [(2, 3)],
            'scale_param { axis: 0 }',
            ('cpu', 6),
            (2, 3),
        ),  # the items have factors of their own
        ('Concat', [(2, 3), (4, 3)], 'concat_param { axis: 0 }', ('cpu', 6), (6, 3)),
        ('Concat', [(2, 2**20), (4, 2**20)], 'concat_param { axis: 0 }', ('meta', 2**21), (6, 2**20)),
    ],
)
def test_shapes_are_computed_with_few_numbers(kind, bottoms, more, where, shape, tmp_path, monkeypatch):
    assert devices_of(kind, bottoms, more, tmp_path, monkeypatch) == ([where], shape)


def test_a_shape_draws_no_random_number(tmp_path):
    """Nor does it move an average, or leave what a backward pass would use."""
    more = 'dropout_param { dropout_ratio: 0.5 }'
    text = data('x', 2, 3, 4, 4) + layer('n', 'BatchNorm', 'x') + layer('d', 'Dropout', 'n', more=more)
    text += layer('s', 'Pooling', 'x', more='pooling_param { pool: STOCHASTIC kernel_size: 2 }')
    caffe.set_random_seed(1)
    before = torch.get_rng_state()
    net = net_from(tmp_path, text, caffe.TRAIN)  # seeds as well
    assert (torch.get_rng_state() == before).all()
    assert net.params['n'][2].data[0] == 0 and net.layers[1].weights == []


def test_what_is_wrong_is_told_in_the_shapes_of_the_net(tmp_path):
    text = data('x', 2, 3, 4, 4) + layer('y', 'Convolution', 'x', more=CONVOLVES)
    net = net_from(tmp_path, text)
    net.blobs['x'].reshape(2, 5, 4, 4)
    with pytest.raises(ValueError, match=r"layer 'y' \(Convolution\), bottom shapes \(2, 5, 4, 4\)"):
        net.reshape()

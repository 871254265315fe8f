"""Layers against what BVLC Caffe 1.0 answered (tests/golden/layers): tops, parameters changed by forward, and
diffs after backward.

A case's net has inputs b0, b1, ..., the layer L and its tops t0, t1, ...; an input that needs a gradient is a
Parameter layer in0, in1, ...
"""

import pathlib

import numpy as np
import pytest
import torch

import caffe
from layer_cases import mode

CASES = sorted((pathlib.Path(__file__).parents[1] / 'golden' / 'layers').glob('*.npz'))
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='torch sees no GPU')
pytestmark = pytest.mark.usefixtures('two_threads')
DEVICES = ['cpu', pytest.param('gpu', marks=NO_GPU)]


def arrays(case, prefix):
    keys = [k for k in case.files if k.startswith(prefix) and k[len(prefix) :].isdigit()]
    return {int(k[len(prefix) :]): case[k] for k in keys}


def agree(blobs, wanted, what):
    for i, want in wanted.items():
        got = getattr(blobs[i], what)
        assert got.shape == want.shape, (i, what)
        atol = 1e-5 + 1e-4 * np.abs(want).max(initial=0)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=f'{what} {i}')


def test_all_cases_are_here():
    assert len(CASES) == 93


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_recorded_case(path, device, tmp_path):
    case = np.load(path)
    (tmp_path / 'net.prototxt').write_text(str(case['prototxt']))
    with mode(device):
        net = caffe.Net(str(tmp_path / 'net.prototxt'), getattr(caffe, str(case['phase'])))
        params = net.params.get('L', [])
        bottoms = {i: net.blobs[f'b{i}'] for i in arrays(case, 'bottom')}
        tops = {i: net.blobs[f't{i}'] for i in arrays(case, 'top')}
        for i, values in arrays(case, 'bottom').items():
            source = net.params[f'in{i}'][0] if f'in{i}' in net.params else bottoms[i]
            source.data[...] = values
        for i, values in arrays(case, 'param').items():
            params[i].data[...] = values
        net.forward()
        agree(tops, arrays(case, 'top'), 'data')
        agree(params, arrays(case, 'param_after'), 'data')
        for i, values in arrays(case, 'top_diff').items():
            tops[i].diff[...] = values
        net.backward()
        agree(bottoms, arrays(case, 'bottom_diff'), 'diff')
        agree(params, arrays(case, 'param_diff'), 'diff')

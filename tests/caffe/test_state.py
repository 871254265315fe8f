"""Solver states, binary and HDF5."""

import numpy as np
import pytest

from caffe.format.state import read_state, write_state


@pytest.mark.parametrize('name', ['s.solverstate', 's.solverstate.h5'])
def test_a_state_comes_back(tmp_path, name):
    path = str(tmp_path / name)
    history = [np.float32([[1, 2], [3, 4]]), np.float32(5)]
    write_state(path, 7, 'w.caffemodel', 2, history)
    iteration, model, got, scale = read_state(path)
    assert (iteration, model, scale) == (7, 'w.caffemodel', None)
    for a, b in zip(got, history, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize('name', ['s.solverstate', 's.solverstate.h5'])
def test_a_cut_state_is_named_with_its_size(tmp_path, name):
    path = tmp_path / name
    write_state(str(path), 7, 'w', 0, [np.ones(999, 'f')])
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf'{name}(?=.*cut off).*\({path.stat().st_size} bytes'):
        read_state(str(path))

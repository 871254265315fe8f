"""The short form of tests/two_machines.py: a world over two network namespaces, one of whose workers fails."""

import re
import subprocess

import pytest
import two_machines
from test_launch import PYTHONPATH


def test_a_world_of_two_machines(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', PYTHONPATH)
        patch.setenv('DEVICES', 'cpu')
        try:
            with two_machines.machines() as names:
                script = two_machines.ROOT / 'tests' / 'test_launch.py'
                processes = two_machines.start(names, tmp_path, 'world', script, 'fails', tmp_path)
                said = two_machines.outputs(processes, 200)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f'no network namespaces here: {error}')
    assert all(process.returncode for process in processes)
    told = re.findall(r'rank \d of 2 .*', '\n'.join(said))
    assert told == ['rank 1 of 2 failed in counting after iteration 3: loss_cls is nan'], said
    assert all('gloo' not in text for text in said), said

"""A recorded run of the original, replayed: draws, labels, losses of all four stages, and both tests."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def test_recorded_run():
    command = [os.path.join(HERE, 'replay_e2e.py'), os.path.join(HERE, 'golden', 'e2e'), '--iterations', '20']
    environment = {**os.environ, 'OMP_NUM_THREADS': '2'}  # as conftest's two_threads
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('images equal (80), labels equal') == 4
    assert 'replay holds' in done.stdout

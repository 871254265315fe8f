"""The style of ruff.toml holds everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize('command', [['format', '--check'], ['check']], ids=' '.join)
def test_style(command):
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', *command, '--no-cache', '.'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f'run .venv/bin/ruff {command[0]} .\n{done.stdout}{done.stderr}'

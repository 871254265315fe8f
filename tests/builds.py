"""setup.py as a module: what it builds, without building it."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location('built', ROOT / 'setup.py')
built = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(built)

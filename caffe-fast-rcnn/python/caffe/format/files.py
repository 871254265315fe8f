"""Files: read whole, or replaced whole."""

import contextlib
import os
import uuid


@contextlib.contextmanager
def atomic_write(path):
    """Give a temporary name beside `path` (same suffix); it is flushed and `path` at the end, or goes on an error. An
    OSError without a file's name, as a full disk's, names `path`."""
    path = os.path.realpath(path)
    root, suffix = os.path.splitext(path)
    temporary = f'{root}.{uuid.uuid4().hex[:8]}.tmp{suffix}'
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(f'{path} cannot be written: there is no folder {os.path.dirname(path)}')
    try:
        yield temporary
        with open(temporary, 'rb') as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def require_file(path, what):
    if not os.path.isfile(path):
        wrong = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f'{what} {path} {wrong}')


def read_bytes(path, what):
    require_file(path, what)
    with open(path, 'rb') as f:
        return f.read()


def read_text(path, what):
    return read_bytes(path, what).decode('utf-8-sig', errors='replace')

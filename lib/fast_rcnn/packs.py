"""A model as one file, NAME.frcnn: a plain zip of its .caffemodel, its .prototxt and its .classes.json (fast_rcnn.sidecar).

All three lie at the top of the zip, by one name each; weights are stored as they are.
"""

import contextlib
import os
import tempfile
import zipfile

from datasets.writers import write_json
from fast_rcnn.sidecar import (
    net_facts,
    prototxt_path,
    read_content,
    read_sidecar,
    sidecar_path,
)
from utils.files import BROKEN, MOST_DEFLATED, atomic_path, file_digest

SUFFIX = '.frcnn'
ENDINGS = '.caffemodel', '.prototxt', '.classes.json'


def is_pack(path):
    return str(path).lower().endswith(SUFFIX)


def pack(model, path=None, prototxt=None):
    """Makes one file of a .caffemodel and the files beside it; prototxt: another test net -> its path, by default
    <model>.frcnn. Errors: a file is missing; weights that are not those of the sidecar (ValueError)."""
    path, prototxt = path or os.path.splitext(model)[0] + SUFFIX, prototxt or read_sidecar(model).prototxt
    content = read_content(sidecar_path(model))
    digests = {'weights': file_digest(model), 'prototxt': file_digest(prototxt)}
    known = (content.get('digests') or {}).get('weights', digests['weights'])
    if known != digests['weights']:
        raise ValueError(
            f'{model}: not the weights that {sidecar_path(model)} is of: wanted SHA-256 {known}, got {digests["weights"]}'
        )
    name = os.path.basename(prototxt_path(model))
    content.update(net_facts(prototxt), digests=digests, prototxt=name)
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        described = os.path.join(folder, 'described')
        write_json(described, content)
        with zipfile.ZipFile(temporary, 'w') as archive:
            archive.write(model, os.path.basename(model))
            archive.write(prototxt, name)
            archive.write(described, os.path.basename(sidecar_path(model)))
    return path


def unpack(path, folder):
    """Writes the three files of a pack to a folder -> the path of the .caffemodel. ValueError: no whole pack."""
    os.stat(path)  # what is missing says so itself
    try:
        with zipfile.ZipFile(path) as archive:
            names = _members(archive)
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f'{damaged} is damaged')
    except BROKEN as error:
        raise ValueError(
            f'{path}: not a whole {SUFFIX} file, as tools/pack.py makes them ({error})'
        ) from None
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, names)
    return os.path.join(folder, names[0])


def _members(archive):
    """The names of a pack's files, in the order of ENDINGS. ValueError where others are in it, or sizes make no sense."""
    infos = archive.infolist()
    names = {ending: info.filename for info in infos for ending in ENDINGS if info.filename.endswith(ending)}
    stems = {names[ending].removesuffix(ending) for ending in names}
    if len(infos) != len(ENDINGS) or len(names) != len(ENDINGS) or len(stems) != 1:
        raise ValueError(
            f'wanted one each of *{", *".join(ENDINGS)}, of one name; got {[i.filename for i in infos]}'
        )
    (stem,) = stems
    if not stem or set(stem) & set('/\\:'):
        raise ValueError(f'{stem!r} is no plain name')
    for info in infos:
        if info.file_size > MOST_DEFLATED * (info.compress_size + 1):
            raise ValueError(
                f'{info.filename} has {info.compress_size} bytes, which cannot be {info.file_size}'
            )
    return [names[ending] for ending in ENDINGS]


@contextlib.contextmanager
def opened(path):
    """The path of a model's .caffemodel, with its files beside it: of a pack those lie in a folder that is there within."""
    if not is_pack(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield unpack(path, folder)

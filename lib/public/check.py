"""Says where a dataset or weights come from, and checks what lies here."""

import argparse
import hashlib
import os

from public.sources import SOURCES


def main(data, argv=None):
    """Prints all of it, or what is named -> exit status. data: the folder, unless --data names another."""
    parser = argparse.ArgumentParser(prog=os.environ.get('FRCNN_COMMAND'), description=__doc__)
    parser.add_argument('name', nargs='*', help=', '.join(SOURCES))
    parser.add_argument(
        '--data', default=data, metavar='FOLDER', help='where to look (default: the data folder)'
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.name if name not in SOURCES]
    if unknown:
        parser.error(f'unknown {unknown[0]}; known: {", ".join(SOURCES)}')
    right = [show(name, SOURCES[name], args.data) for name in args.name or SOURCES]
    return 0 if all(right) else 1


def missing(source, data):
    """What is not as it should be, of what is to lie here: [path: why]."""
    faults = {path: content_fault(os.path.join(data, path), *wanted) for path, wanted in source.lies.items()}
    return [f'{path}: {fault}' for path, fault in faults.items() if fault]


def show(name, source, data):
    """Print what there is to know of a source -> whether all of it lies here, as it should."""
    print(f'{name}: {source.about}\n  from   {source.page}')
    for file, address, size, digest in source.archives:
        length = f', {size:,} bytes' if size else ''
        print(f'  file   {file}{length}, {digest[0]} {digest[1]}\n         {address}')
    if source.licence:
        print(f'  terms  {source.licence}')
    if source.fits:
        print(f'  fits   {source.fits}')
    print(f'  then   {source.unpack}')
    for file, _, size, digest in source.archives:
        path = os.path.join(data, file)
        if os.path.exists(path):
            print(f'  {path}: {archive_fault(path, size, digest) or "as published"}')
    right = True
    for path, (kind, wanted) in source.lies.items():
        path = os.path.join(data, path)
        fault = content_fault(path, kind, wanted)
        print(f'  {path}: {fault or "here"}')
        right = right and not fault
    return right


def archive_fault(path, size, digest):
    """What is wrong with an archive, or None."""
    found = os.path.getsize(path)
    if size and found != size:
        return f'WRONG: wanted {size:,} bytes, got {found:,}: not whole?'
    with open(path, 'rb') as stream:
        result = hashlib.new(digest[0])
        for block in iter(lambda: stream.read(1 << 20), b''):
            result.update(block)
    return None if result.hexdigest() == digest[1] else f'WRONG: its {digest[0]} is {result.hexdigest()}'


def content_fault(path, kind, wanted):
    """What is wrong with a file or folder, or None."""
    if not os.path.exists(path):
        return 'MISSING'
    found = COUNTS[kind](path)
    right = found >= wanted if kind == 'bytes' else found == wanted
    return (
        None if right else f'WRONG: wanted {"at least " * (kind == "bytes")}{wanted:,} {kind}, got {found:,}'
    )


def _lines(path):
    with open(path, 'rb') as stream:
        return sum(1 for line in stream if line.strip())


COUNTS = {
    'files': lambda path: sum(len(files) for _, _, files in os.walk(path, followlinks=True)),
    'lines': _lines,
    'bytes': os.path.getsize,
}

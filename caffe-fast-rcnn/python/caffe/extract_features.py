"""extract_features WEIGHTS NET BLOB[,BLOB...] DATABASE[,DATABASE...] BATCHES lmdb|leveldb [CPU|GPU [DEVICE_ID=N]]

Runs a net whose data layer reads what it is to look at, and writes the values of each blob as a database of Datums of
floats, one for each image, keys 0000000000 and so on.
"""

import contextlib
import sys

import numpy as np

from . import io
from .common import TEST, logger, set_device, set_mode_cpu, set_mode_gpu
from .format.database import BACKENDS, new_database, progress
from .net import Net

LEAST, MOST = 6, 8  # arguments


def features(net, names, batches):
    """For each batch: {blob: its values (N, K, H, W)}; missing axes are 1."""
    for _ in range(batches):
        net.forward()
        found = {}
        for name in names:
            values = net.blobs[name].data
            if values.ndim > 4:
                raise ValueError(f'blob {name!r} has the shape {values.shape}; a Datum has 4 axes at most')
            found[name] = values.reshape(*values.shape, *[1] * (4 - values.ndim))
        yield found


def extract(weights, model, names, databases, batches, backend):
    """Write the databases; they appear under their names when all are whole."""
    net = Net(model, TEST, weights=weights)
    unknown = [name for name in names if name not in net.blobs]
    if unknown:
        raise ValueError(f'{model} has no blob {unknown[0]!r}; there are {", ".join(net.blobs)}')
    written = dict.fromkeys(names, 0)
    with contextlib.ExitStack() as stack:
        puts = {n: stack.enter_context(new_database(d, backend)) for n, d in zip(names, databases)}
        for found in progress(features(net, names, batches), batches, 'batches'):
            for name, values in found.items():
                data = [io.array_to_datum(v.astype(np.float32)).SerializeToString() for v in values]
                puts[name]([(b'%010d' % i, value) for i, value in enumerate(data, written[name])])
                written[name] += len(data)
    for name, database in zip(names, databases):
        logger.info('%d features of %s in %s', written[name], name, database)


def use_device(words):
    """Of the words after the backend: CPU, or GPU and DEVICE_ID=N."""
    if not words or words == ['CPU']:
        set_mode_cpu()
    elif words[0] == 'GPU' and (len(words) == 1 or words[1].startswith('DEVICE_ID=')):
        set_device(int(words[1].removeprefix('DEVICE_ID=')) if len(words) > 1 else 0)
        set_mode_gpu()
    else:
        raise ValueError(f'wanted CPU, or GPU and DEVICE_ID=N; got {" ".join(words)}')


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not LEAST <= len(argv) <= MOST:
        sys.exit(__doc__)
    weights, model, names, databases, batches, backend, *device = argv
    names, databases = names.split(','), databases.split(',')
    try:
        if len(names) != len(databases) or backend not in BACKENDS:
            raise ValueError('wanted are as many databases as blobs, and lmdb or leveldb')
        use_device(device)
        extract(weights, model, names, databases, int(batches), backend)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f'extract_features: {error}')


if __name__ == '__main__':
    main()

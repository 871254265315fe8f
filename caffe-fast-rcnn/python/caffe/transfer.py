"""transfer: the parameters of a graph from files, to files, and in common with another graph."""

from .common import logger
from .format.weights import read_weights


def copy_from(graph, path):
    """Load the parameters of layers of the same name from a .caffemodel or HDF5 file; other layers keep
    theirs.

    ValueError when a layer's parameters differ in number or shape. Blobs of old files with leading
    axes of 1 fit.
    """
    ignored = []
    for name, _, arrays in read_weights(str(path)):
        if not arrays:
            continue
        if name not in graph.params:
            ignored.append(name)
            continue
        blobs = graph.params[name]
        arrays = _with_shared(graph, name, arrays)
        if len(arrays) != len(blobs):
            raise ValueError(
                f'{path}: layer {name!r} has {len(arrays)} parameter blobs, the net {graph.name!r} wants {len(blobs)}'
            )
        for i, (blob, array) in enumerate(zip(blobs, arrays)):
            if array is None:
                continue
            if _without_leading_ones(array.shape) != _without_leading_ones(blob.shape):
                raise ValueError(
                    f'{path}: cannot copy parameter {i} of layer {name!r}: shape mismatch, the file has '
                    f'{tuple(array.shape)}, the net wants {blob.shape}. To learn this layer from scratch rather '
                    'than copy it, rename it'
                )
            blob.data[...] = array.reshape(blob.shape)
    if ignored:
        logger.info(
            '%s has %d layer%s that net %r leaves aside: %s',
            path,
            len(ignored),
            's' * (len(ignored) > 1),
            graph.name,
            ', '.join(ignored),
        )


def _with_shared(graph, name, arrays):
    """A layer's arrays of a file; None where the file leaves a parameter to the layer that owns it, as
    HDF5 files do."""
    missing = [i for i in range(len(graph.params[name])) if i >= len(arrays) or arrays[i] is None]
    if missing and all((name, i) in graph.shared for i in missing):
        return [None if i in missing else arrays[i] for i in range(len(graph.params[name]))]
    return [a for a in arrays if a is not None]


def share_with(graph, other):
    """Use the values of other's parameters in all layers of the same name, from now on in common."""
    for name, blobs in other.params.items():
        if name not in graph.params:
            continue
        for i, (own, blob) in enumerate(zip(graph.params[name], blobs)):
            if own.shape != blob.shape:
                raise ValueError(
                    f'cannot share parameter {i} of layer {name!r}: shapes {own.shape} and {blob.shape} differ'
                )
            own.share_data(blob)


def weight_table(graph, diffs=False):
    """[(layer name, type, [arrays], bottom names, top names[, [diffs]])] as write_weights
    takes it."""
    rows = []
    for node in graph.nodes:
        arrays = [_copy_to_host(b.tensor) for b in node.layer.blobs]
        row = (node.layer.name, node.layer.type, arrays, node.bottom_names, node.top_names)
        rows.append(row + ([_copy_to_host(b.grad) for b in node.layer.blobs],) if diffs else row)
    return rows


def _copy_to_host(tensor):
    return tensor.cpu().numpy()


def _without_leading_ones(shape):
    shape = list(shape)
    while len(shape) > 1 and shape[0] == 1:
        shape.pop(0)
    return shape

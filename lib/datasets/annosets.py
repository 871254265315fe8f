"""A dataset as SSD's data layers read it: a database of AnnotatedDatums, and what lies beside it.

The engine's own convert_annoset makes the same of lists of files.
"""

import os

import numpy as np
from google.protobuf import text_format

from caffe.convert_annoset import annotated
from caffe.format.database import progress, write_database
from caffe.proto import caffe_pb2
from utils.files import atomic_path


def write_annoset(imdb, stem):
    """<stem>_lmdb, the images' files with their boxes, difficult ones too; <stem>_name_size.txt, lines `name height width`
    in its order. Returns both paths. FileExistsError where the database is there."""
    paths = f'{stem}_lmdb', f'{stem}_name_size.txt'
    count = imdb.num_images
    write_database(paths[0], 'lmdb', progress(_records(imdb), count, f'images of {imdb.name}'))
    names = [
        os.path.splitext(os.path.basename(imdb.image_path_at(i)))[0].replace(' ', '_') for i in range(count)
    ]
    with atomic_path(paths[1]) as path, open(path, 'w') as f:
        f.writelines(f'{name} {h} {w}\n' for name, (w, h) in zip(names, imdb.sizes.tolist()))
    return paths


def _records(imdb):
    truth = imdb.truth
    for i in range(imdb.num_images):
        own = slice(truth.starts[i], truth.starts[i + 1])
        boxes = truth.boxes[own] + np.array([0, 0, 1, 1])  # whole pixels to edges
        objects = zip(truth.classes[own].tolist(), truth.difficult[own].tolist(), boxes.tolist())
        with open(imdb.image_path_at(i), 'rb') as f:
            datum = caffe_pb2.Datum(data=f.read(), encoded=True)
        width, height = imdb.sizes[i].tolist()
        record = annotated(datum, objects, (height, width))
        yield (
            f'{i:08d}_{imdb.image_path_at(i)}'.encode(errors='surrogateescape')[:500],
            record.SerializeToString(),
        )


def write_label_map(classes, path):
    """A LabelMap prototxt: the names of classes, the background first, as labels from 0 on."""
    items = [
        caffe_pb2.LabelMapItem(name=name.strip('_') if not i else name, label=i, display_name=name.strip('_'))
        for i, name in enumerate(classes)
    ]
    with atomic_path(path) as temporary, open(temporary, 'w') as f:
        f.write(text_format.MessageToString(caffe_pb2.LabelMap(item=items)))
    return path

"""PASCAL VOC's evaluation from files: result file, annotations, image set -> AP of a class."""

import os

import numpy as np

from datasets.evaluators.average_precision import average_precision, voc_ap  # noqa: F401
from datasets.evaluators.result_files import class_file, places, read_rows
from datasets.readers.images import read_image_set
from datasets.readers.voc_xml import CORNERS, read_annotations, read_root


def parse_rec(filename):
    """Objects of an XML file: dicts of name, pose, truncated, difficult and bbox [xmin, ymin, xmax, ymax],
    whole numbers as in the file. What the file leaves out is 'Unspecified', or 0."""
    return [
        {
            'name': item.findtext('name'),
            'pose': item.findtext('pose', 'Unspecified'),
            'truncated': int(item.findtext('truncated', '0')),
            'difficult': int(item.findtext('difficult', '0')),
            'bbox': [int(float(item.findtext(f'bndbox/{corner}'))) for corner in CORNERS],
        }
        for item in read_root(filename).findall('object')
    ]


def voc_eval(detpath, annopath, imagesetfile, classname, cachedir, ovthresh=0.5, use_07_metric=False):
    """Recall (D,), precision (D,) and AP of one class; see evaluators.average_precision.

    detpath, annopath: with {} in the place of the class, and of the image; annotations of large sets are kept
    in the folder cachedir.
    """
    ids = read_image_set(imagesetfile)
    stem = os.path.splitext(os.path.basename(imagesetfile))[0]
    data = read_annotations([(annopath.format(i), None) for i in ids], stem, cachedir)
    wanted = np.flatnonzero(data.vocabulary == classname)
    mine = np.isin(data.names, wanted)
    images = np.repeat(np.arange(len(ids)), data.counts)
    path = class_file(detpath, classname)
    names, rows = read_rows(path)
    return average_precision(
        places(path, names, {name: i for i, name in enumerate(ids)}),
        rows[:, :4],
        rows[:, 4],
        images[mine],
        data.boxes[mine],
        data.difficult[mine],
        ovthresh,
        use_07_metric,
    )

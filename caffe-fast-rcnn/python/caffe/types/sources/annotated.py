"""AnnotatedData: batches of images with boxes from a database of AnnotatedDatums (convert_annoset makes it)."""

import numpy as np
import torch

from ...proto import caffe_pb2
from ...registry import layer
from .augment import BoxTransformer
from .batch import numbers, room
from .records import Data
from .transformer import datum_image, read_message


@layer('AnnotatedData', 'data_param', 'annotated_data_param')
class AnnotatedData(Data):
    """Tops data (N, K, h, w) and label (1, 1, T, 8) of the T objects in a batch: rows of the image's number in it, class,
    number among the image's objects of the class, x1, y1, x2, y2 relative to the image, difficult; one row of
    -1 where there are none. Of records without a type the label is (N,), as Data's.

    batch_sampler and transform_param: see augment. anno_type is taken as the type of all records.
    """

    fields = (*Data.fields, 'batch_sampler', 'anno_type')
    transformer = BoxTransformer

    def samples(self, param, transformer):
        annotated = self.layer_param.annotated_data_param
        color = True if param.force_encoded_color else transformer.color
        typed = True if annotated.HasField('anno_type') else None
        records = self.records(param, transformer)
        return annotated_samples(records, transformer, list(annotated.batch_sampler), color, typed)

    @staticmethod
    def gather(labels):
        return objects(labels) if isinstance(labels[0], np.ndarray) else numbers(labels)


def objects(labels):
    """(1, 1, T, 8) of rows (t, 7) for each image."""
    rows = np.concatenate([np.insert(rows, 0, i, axis=1) for i, rows in enumerate(labels)])
    rows = rows if len(rows) else np.full((1, 8), -1)
    return room(1, 1, *rows.shape).copy_(torch.from_numpy(rows))


def annotated_samples(records, transformer, samplers, color, typed):
    """Samples of records (name, value); typed: whether they have boxes, None: the first record says it."""
    for name, value in records:
        record = read_message(caffe_pb2.AnnotatedDatum, value, name)
        typed = record.HasField('type') if typed is None else typed
        if not (typed or record.datum.HasField('label')):
            raise ValueError(f'{name} has neither a type nor a label; was it made by convert_annoset?')
        image = datum_image(record.datum, name, color)
        image, rows = transformer.with_boxes(image, rows_of(record, name), samplers, name)
        yield image, rows if typed else record.datum.label, name


def rows_of(record, name):
    """Rows (T, 7) of an AnnotatedDatum's objects, as augment has them."""
    rows = [
        (
            group.group_label,
            a.instance_id,
            a.bbox.xmin,
            a.bbox.ymin,
            a.bbox.xmax,
            a.bbox.ymax,
            a.bbox.difficult,
        )
        for group in record.annotation_group
        for a in group.annotation
    ]
    rows = np.array(rows, np.float32).reshape(-1, 7)
    if not np.isfinite(rows).all():
        raise ValueError(f'{name} has a box that is no number')
    return rows

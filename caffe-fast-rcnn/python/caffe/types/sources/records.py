"""Data: batches from a database."""

import itertools

from ... import common
from ...format.database import open_database
from ...proto import caffe_pb2
from ...registry import layer
from .batch import BatchLayer
from .transformer import read_datum


@layer('Data')
class Data(BatchLayer):
    """Tops data (N, K, h, w) and label (N,) of a database's Datums, in their keys' order, round and round.

    In training with several solvers each takes every solver_count-th record. rand_skip: of these, a number
    below it is skipped at first. Each batch has the shape of its own first record. backend is LEVELDB unless
    given.
    """

    fields = ('source', 'batch_size', 'rand_skip', 'backend', 'force_encoded_color', 'prefetch')

    def samples(self, param, transformer):
        color = True if param.force_encoded_color else transformer.color
        return record_samples(self.records(param, transformer), transformer, color)

    def records(self, param, transformer):
        """An endless iterator of (name for errors, value) of the records that are this solver's."""
        database = open_database(param.source, caffe_pb2.DataParameter.DB.Name(param.backend))
        training = self.phase == caffe_pb2.TRAIN
        rank, count = (common.solver_rank(), common.solver_count()) if training else (0, 1)
        skip = transformer.draw(param.rand_skip) if param.rand_skip else 0
        return named_records(database, param.source, rank + skip * count, count)


def named_records(database, source, first, step):
    """Every step-th record of a database from number `first` on, round and round: (name, value)."""
    records = itertools.chain.from_iterable(itertools.repeat(database))
    for key, value in itertools.islice(records, first, None, step):
        yield f'record {bytes(key).decode(errors="replace")!r} of {source}', value


def record_samples(records, transformer, color):
    for name, value in records:
        image, label = read_datum(value, name, color)
        yield transformer(image, name), label, name

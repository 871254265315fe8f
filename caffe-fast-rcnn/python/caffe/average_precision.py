"""Mean average precision of the rows that a DetectionEvaluate layer gives.

Rows: -1, class, number of objects, -1, -1; or image, class, score, right, wrong.
"""

import numpy as np

from .common import logger

COLUMNS = 5
VERSIONS = ('11point', 'MaxIntegral', 'Integral')


def average_precision(scores, right, objects, version):
    """Of detections with scores (D,), right or not (D,), and the number of objects there are; 0 without any.

    Recall r and precision p after each detection, by falling score. Integral: sum of p times the rise of r;
    MaxIntegral: the same with the largest p from there on (VOC 2010, ILSVRC); 11point: the mean of the largest p where
    r >= 0, 0.1 ... 1 (VOC 2007).
    """
    if not objects or not len(scores):
        return 0.0
    right = np.asarray(right, float)[np.argsort(-np.asarray(scores), kind='stable')]
    recall, precision = right.cumsum() / objects, right.cumsum() / np.arange(1, len(right) + 1)
    if version == '11point':
        return float(np.mean([max(precision[recall >= t], default=0) for t in np.arange(11) / 10]))
    if version == 'MaxIntegral':
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


class Tally:
    """The rows of many batches."""

    def __init__(self, version):
        if version not in VERSIONS:
            raise ValueError(f'unknown ap_version {version!r}; known: {", ".join(VERSIONS)}')
        self.version, self.rows = version, []

    def add(self, blob):
        """Rows (1, 1, R, 5), an array, which the next pass may write over."""
        self.rows.append(np.array(blob, copy=True).reshape(-1, COLUMNS))

    def by_class(self):
        """{class: average precision}, of every class."""
        rows = np.concatenate(self.rows)
        heads, found = rows[rows[:, 0] == -1], rows[(rows[:, 0] >= 0) & (rows[:, 3:].any(1))]
        result = {}
        for label in np.unique(heads[:, 1]):
            own, objects = found[found[:, 1] == label], heads[heads[:, 1] == label, 2].sum()
            result[int(label)] = average_precision(own[:, 2], own[:, 3], objects, self.version)
        return result


def mean(by_class):
    """The mean of {class: average precision}; a class without objects counts as 0."""
    return sum(by_class.values()) / len(by_class)


def log(by_class):
    for label, precision in by_class.items():
        logger.info('class%d: %.6g', label, precision)


def tallies(net, version):
    """{output: Tally} of the outputs of a net's DetectionEvaluate layers."""
    made = [k for k, layer in net.layer_dict.items() if layer.type == 'DetectionEvaluate']
    return {name: Tally(version) for k in made for name in net.top_names[k] if name in net.outputs}

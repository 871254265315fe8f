"""Linear SVMs in place of a detector's softmax, one for each class, as R-CNN had them (Girshick et al. 2014, arXiv 1311.2524,
section 2.3 and appendix B) and Fast R-CNN compared itself with (section 5.4).

A class's objects are positive, regions that meet each object of it by less than NEGATIVE_IOU negative, others neither. Features are what
the net's cls_score reads, multiplied by one factor that makes their mean norm NORM. Negatives are mined: image after image, those
that the SVM of the moment scores above HARD are collected; after RETRAIN more of them it is fitted anew, and those that it
scores below EASY are let go. Numbers are those of py-faster-rcnn's tools/train_svms.py.

R regions of an image, K classes with the background, D features, P positives and M negatives of a class.
"""

import logging

import numpy as np

from fast_rcnn.config import cfg
from fast_rcnn.inputs import looked_at_image
from fast_rcnn.judging import Judge, wanted
from fpn.boxes import family_of_net
from utils.blob import read_image
from utils.cython_bbox import bbox_overlaps
from utils.progress import progress

log = logging.getLogger(__name__)

NORM, NORM_IMAGES = 20.0, 100  # the features' mean norm, and of how many images it is measured
NEGATIVE_IOU = 0.3
HARD, EASY = -1.0001, -1.1
RETRAIN = 2000
C, POSITIVE_WEIGHT, BIAS = (
    0.001,
    2.0,
    10.0,
)  # of LinearSVC: C, a positive's weight, what the bias is multiplied by
NEVER = -10.0  # the score of a class without objects


class Features:
    """What a net's cls_score reads of regions. layer: the name of cls_score's layer. ValueError for a net whose scores no SVM can
    take over."""

    def __init__(self, net):
        self.net, self.family = net, family_of_net(net)
        self.layer = next((name for name, tops in net.top_names.items() if 'cls_score' in tops), None)
        blobs = net.params[self.layer] if self.layer in net.params else ()
        if len(blobs) != 2 or len(blobs[0].data.shape) != 2:
            raise ValueError(
                f'net {net.name!r}: wanted an InnerProduct with a bias that makes cls_score, got none'
            )
        if len(cfg.TEST.SCALES) != 1 or wanted(net):
            raise ValueError(
                'SVMs are trained on one look at an image: TEST.SCALES of one, no TEST.FLIP, REGION_SCALES, REFINE'
            )
        self.blob = net.bottom_names[self.layer][0]

    def of(self, imdb, i, proposals=True):
        """Of image i: boxes (R, 4) as datasets have them, its objects first, then, with proposals, what the net proposes or the boxes
        that are given, and features (R, D)."""
        entry, im = imdb.roidb[i], read_image(imdb.image_path_at(i))
        image = looked_at_image(im[:, ::-1] if entry['flipped'] else im, self.family)
        judge, objects = Judge(self.net, [image], self.family), entry['gt_classes'] > 0
        boxes = self.family.own(entry['boxes'][objects].astype(np.float32))
        if proposals:
            given = self.family.own(entry['boxes'][~objects].astype(np.float32))
            boxes = np.concatenate([boxes, judge.proposals()[0] if cfg.TEST.HAS_RPN else given])
        judge.answers([boxes])
        values = self.net.blobs[self.blob].data
        return self.family.datasets(boxes), values.reshape(len(values), -1).copy()


class Svm:
    """A class's, on features that are multiplied by `scale`: w (D,), b. Starts from scores of 0."""

    def __init__(self, positives, scale, retrain=RETRAIN):
        self.positives, self.scale, self.retrain = positives, scale, retrain
        self.w, self.b = np.zeros(positives.shape[1]), 0.0
        self.negatives, self.added = positives[:0], 0

    def scores(self, features):
        """(R,) of features (R, D)."""
        return features @ (self.w * self.scale) + self.b

    def add(self, features):
        """Takes up those negatives (R, D) that are hard; fits, once they are many. Without positives there is nothing to learn."""
        if not len(self.positives):
            return
        hard = features[self.scores(features) > HARD]
        self.negatives = np.concatenate([self.negatives, hard])
        self.added += len(hard)
        if self.added > self.retrain:
            self.fit()

    def fit(self):
        """Fits to what is there, and lets go what is easy. Without negatives or positives: as it was."""
        self.added = 0
        if not len(self.positives) or not len(self.negatives):
            return
        examples = np.concatenate([self.positives, self.negatives]) * self.scale
        labels = np.repeat([1, -1], [len(self.positives), len(self.negatives)])
        found = linear_svc().fit(examples, labels)
        self.w, self.b = found.coef_[0], float(found.intercept_[0])
        self.negatives = self.negatives[self.scores(self.negatives) >= EASY]


def linear_svc():
    """scikit-learn's, over liblinear."""
    try:
        from sklearn.svm import LinearSVC
    except ImportError:
        raise ImportError('SVMs want scikit-learn: pip install scikit-learn') from None
    return LinearSVC(
        C=C,
        class_weight={1: POSITIVE_WEIGHT, -1: 1},
        intercept_scaling=BIAS,
        loss='hinge',
        dual=True,
        random_state=cfg.RNG_SEED,
    )


def train_svms(net, imdb, retrain=RETRAIN):
    """Fits an SVM for each class of an imdb, whose roidb has objects and, for a net without an RPN, proposals, and puts them
    into the net's cls_score -> {class: how many positives}."""
    linear_svc()  # without it nothing is begun
    features = Features(net)
    scale = feature_scale(features, imdb)
    log.info('features are multiplied by %.4g', scale)
    positives = positives_of(features, imdb)
    svms = {k: Svm(found, scale, retrain) for k, found in positives.items()}
    for i in progress(range(imdb.num_images), 'mining'):
        mine(svms, features, imdb, i)
    for k, svm in svms.items():
        svm.fit()
        log.info(
            '%s: %d positives, %d negatives at the end',
            imdb.classes[k],
            len(svm.positives),
            len(svm.negatives),
        )
    put(net, features.layer, svms)
    return {imdb.classes[k]: len(found) for k, found in positives.items()}


def feature_scale(features, imdb):
    """NORM over the mean norm of the features of all regions in NORM_IMAGES images, drawn by cfg.RNG_SEED."""
    order = np.random.RandomState(cfg.RNG_SEED).permutation(imdb.num_images)[:NORM_IMAGES]
    norms = [np.linalg.norm(features.of(imdb, i)[1], axis=1) for i in progress(order.tolist(), 'norms')]
    mean = np.concatenate(norms).mean() if sum(map(len, norms)) else 0
    if not mean > 0:
        raise ValueError(
            f'{features.net.name}: {features.blob}, which cls_score reads, is zero in {len(order)} images'
        )
    return NORM / float(mean)


def positives_of(features, imdb):
    """{class: (P, D)} of the objects."""
    size = features.net.params[features.layer][0].data.shape[1]
    found = {k: [np.zeros((0, size), np.float32)] for k in range(1, imdb.num_classes)}
    for i in progress(range(imdb.num_images), 'objects'):
        classes = classes_of(imdb.roidb[i])
        if len(classes):
            values = features.of(imdb, i, proposals=False)[1]
            for k in np.unique(classes).tolist():
                found[k].append(values[classes == k])
    return {k: np.concatenate(parts) for k, parts in found.items()}


def classes_of(entry):
    """Those of a roidb entry's objects."""
    return entry['gt_classes'][entry['gt_classes'] > 0]


def mine(svms, features, imdb, i):
    """Shows each Svm the negatives of image i."""
    boxes, values = features.of(imdb, i)
    classes = classes_of(imdb.roidb[i])
    overlaps = bbox_overlaps(boxes.astype(float), boxes[: len(classes)].astype(float))
    for k, svm in svms.items():
        meets = overlaps[:, classes == k].max(1, initial=0)
        svm.add(values[len(classes) :][meets[len(classes) :] < NEGATIVE_IOU])


def put(net, layer, svms):
    """Writes the SVMs into the rows of a layer: the background scores 0, a class without objects NEVER."""
    weights, biases = (blob.data for blob in net.params[layer])
    weights[...], biases[...] = 0, 0
    for k, svm in svms.items():
        weights[k] = svm.w * svm.scale
        biases[k] = svm.b if len(svm.positives) else NEVER

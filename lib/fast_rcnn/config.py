"""The settings of the whole library: every key with its unit and effect, and the ways to override it.

`cfg` is read at the edge (tools, layers, training and test loops); the functions below them take plain
values. Ways in: cfg_from_file (YAML), cfg_from_list (--set KEY VALUE ...), overrides (a scope that ends),
cfg_values and cfg_restore (hand all values to another process). An unknown key or a value of the wrong type
raises.
"""

import ast
import contextlib
import copy
import difflib
import os
import os.path as osp

import numpy as np
from easydict import EasyDict

from utils.files import read_text
from utils.param_str import parse_yaml
from utils.places import HOME

cfg = EasyDict()

# --------------------------------------------------------------------------------------------------- training
cfg.TRAIN = EasyDict()

# Lengths of an image's short side in pixels after scaling; one is drawn per image
cfg.TRAIN.SCALES = (600,)

# Longest allowed long side in pixels; a longer image is scaled down until it fits
cfg.TRAIN.MAX_SIZE = 1000

# Times the size drawn, a factor of this range, drawn per image; MAX_SIZE holds all the same. (1, 1): off
cfg.TRAIN.SCALE_JITTER = (1.0, 1.0)

# The probability with which an image is mirrored whenever it is drawn: in place of USE_FLIPPED's mirror images, which
# make an epoch twice as long
cfg.TRAIN.FLIP_PROB = 0.0

# Images more than twice as wide as high, or as high as wide, are cropped to twice, each time they are drawn, at a place
# drawn so that all objects stay; where these reach further, so that one of them does, which is drawn. Boxes are cut off
# at the crop's edge; those go of which no more than a row or a column of pixels is left
cfg.TRAIN.ASPECT_CROPPING = False

# The probability with which an image is cropped, as SSD does (arXiv 1512.02325, section 2.2): to sides that are a share of
# its own, of CROP_SIDES, none more than twice the other, where the crop's overlap (IoU) with an object is at least the one
# drawn of CROP_OVERLAPS (1: the image stays whole); of 40 crops the first that is so, else none. Objects whose centre is
# outside go, and one stays at least
cfg.TRAIN.CROP_PROB = 0.0
cfg.TRAIN.CROP_SIDES = (0.3, 1.0)
cfg.TRAIN.CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

# The probabilities with which an image's brightness, contrast, saturation and hue change, each for itself: up to so many
# levels of 255 are added or taken, pixels multiplied, their saturation multiplied (ranges), and up to so many degrees
# added to their hue or taken. SSD's numbers, with a probability of 0.5
cfg.TRAIN.DISTORT_PROB = 0.0
cfg.TRAIN.BRIGHTNESS_DELTA = 32.0
cfg.TRAIN.CONTRAST = (0.5, 1.5)
cfg.TRAIN.SATURATION = (0.5, 1.5)
cfg.TRAIN.HUE_DELTA = 18.0

# Images per forward pass, padded with zeros to the size of the largest
cfg.TRAIN.IMS_PER_BATCH = 2

# Images that one update of the weights sees, over all passes and workers: the solver's iter_size becomes
# REAL_BATCH_SIZE / (IMS_PER_BATCH * workers). 0: one pass per worker is the batch as far as RoIs are counted,
# and the solver file's own iter_size stays
cfg.TRAIN.REAL_BATCH_SIZE = 0

# RoIs per real batch: every image gives BATCH_SIZE / REAL_BATCH_SIZE of them
# (BATCH_SIZE / IMS_PER_BATCH when REAL_BATCH_SIZE is 0). -1: all there are, for nets that choose hard ones (OHEM)
cfg.TRAIN.BATCH_SIZE = 128

# Largest share of foreground (not background) RoIs in an image's RoIs
cfg.TRAIN.FG_FRACTION = 0.25

# A RoI is foreground if its IoU with a ground-truth box is >= FG_THRESH
cfg.TRAIN.FG_THRESH = 0.5

# A RoI is background if its highest IoU lies in [BG_THRESH_LO, BG_THRESH_HI)
cfg.TRAIN.BG_THRESH_HI = 0.5
cfg.TRAIN.BG_THRESH_LO = 0.1

# Train on each image's mirror image too: image i flipped is roidb entry i + n
cfg.TRAIN.USE_FLIPPED = True

# Keep images without any object as negatives: all their anchors and RoIs may be background, whatever
# BG_THRESH_LO; their box loss is zero. Images whose objects are all left out as difficult are never among them.
# False leaves both to the thresholds, as the original did (an RPN never sees them). Datasets described by a
# YAML file set it to True
cfg.TRAIN.USE_EMPTY = False

# Objects that VOC's annotations call difficult are trained on, as DetNet_pytorch has it; py-faster-rcnn leaves them out.
# Crowds, of COCO, never are
cfg.TRAIN.USE_DIFFICULT = False

# Images whose short side / long side is below this are not trained on (0: all are)
cfg.TRAIN.MIN_IM_RATIO = 0.0

# Background only from exhaustively annotated images. In ImageNet DET the images of the train split are
# labelled in part, those of val in full (an image is of the train split if the last folder named train or val
# in its path is train). True takes positives from both, and background anchors and RoIs from val alone, for
# the whole batch: REAL_BATCH_SIZE / VAL_PER_BATCH_SIZE times an image's share. For that, of every
# REAL_BATCH_SIZE images in the order drawn the first VAL_PER_BATCH_SIZE are of val. It shipped as False
cfg.TRAIN.NO_POS_SAMPLES_ON_TRAIN = False
cfg.TRAIN.VAL_PER_BATCH_SIZE = 1

# Regress boxes (Fast R-CNN's bbox_pred); false in the RPN's own stages
cfg.TRAIN.BBOX_REG = True

# A RoI is a regression example if its IoU with a ground-truth box is >= BBOX_THRESH
cfg.TRAIN.BBOX_THRESH = 0.5

# One box regression for all classes: the net's bbox_pred (R-FCN: rfcn_bbox) has 8 outputs, of background and
# object
cfg.TRAIN.AGNOSTIC = False

# How many times a training goes through its images (mirror images of USE_FLIPPED are images of their own): what its
# iterations then are, unless --max_iters says so. 0: iterations as the recipe has them
cfg.TRAIN.EPOCHS = 0.0

# Recipes: millions of pixels that a training sees. SCALES and MAX_SIZE, of TEST too, and EPOCHS follow from it and from the
# dataset's images and objects (lib/pipeline/fit.py), where neither the dataset's own settings nor --set name them. 0: none does
cfg.TRAIN.FIT = 0.0

# Epochs after which the learning rate falls (lr_policy multistep, by the solver's gamma); with other iterations than
# EPOCHS, at the same shares of them. (0,): as the solver's file says
cfg.TRAIN.EPOCH_STEPS = (0.0,)

# The learning rate and the weight decay. 0 and -1: as the solver's file says
cfg.TRAIN.BASE_LR = 0.0
cfg.TRAIN.WEIGHT_DECAY = -1.0

# The images of an update that the learning rate is meant for: it is scaled in proportion to those there are, over all
# passes and workers (arXiv 1706.02677). 0: it stays as it is
cfg.TRAIN.LR_BATCH = 0

# The learning rate falls to 0 by half a cosine over the whole training (arXiv 1608.03983, without restarts), behind its
# warm-up; not with EPOCH_STEPS. False: as the solver's file says
cfg.TRAIN.COSINE_LR = False

# Iterations, less than an epoch, in which the learning rate rises evenly from WARMUP_FACTOR of it to all of it. 0: none,
# or as the solver's file says, rampup_interval and rampup_lr
cfg.TRAIN.WARMUP_ITERS = 0
cfg.TRAIN.WARMUP_FACTOR = 0.001

# The split of the dataset that trainings of recipes are tested on as they go, e.g. 'val' ('': none): every VALIDATE_EPOCHS
# epochs, and at the end. The best snapshot by mean AP is the one that is kept, and the training ends when PATIENCE tests in a
# row gave none better (0: never). It should not be what is tested on at last, which would then be chosen by its own figures
cfg.TRAIN.VALIDATE = ''
cfg.TRAIN.VALIDATE_EPOCHS = 10.0
cfg.TRAIN.PATIENCE = 5

# Layers that do not learn, by name or pattern of names, over the net's file: ['conv1', 'res2*', 'scale2*']. Nothing is
# kept or computed for gradients that only they would want; BatchNorm among them takes its statistics as they are
cfg.TRAIN.FREEZE = ()

# BatchNorm that learns its statistics takes them over the images of a pass of all workers together, as if they were one
# batch; False: each worker over its own
cfg.TRAIN.SYNC_BN = False

# So much of a RoI's label goes to all classes alike (arXiv 1512.00567, section 7), in the loss of the head's scores. 0: none
cfg.TRAIN.LABEL_SMOOTHING = 0.0

# Of each image the so many RoIs with the largest losses train, as R-FCN's nets with OHEM have it (arXiv 1604.03540); the
# others are judged and left. BATCH_SIZE -1 gives it all RoIs to choose from. For nets with one head. 0: all that are sampled
cfg.TRAIN.OHEM = 0

# Biases decay, and learn faster than their weights, as the net's file says. False: they do not decay; they learn as fast
cfg.TRAIN.BIAS_DECAY = True
cfg.TRAIN.DOUBLE_BIAS = True

# The largest norm of all gradients of an update together; longer ones are made as short. 0: as the solver's file says,
# clip_gradients
cfg.TRAIN.CLIP_GRADIENTS = 0.0

# Minutes between the states from which an interrupted training goes on (one is also written with every
# snapshot, at the end, and on SIGINT and SIGTERM). 0: only then
cfg.TRAIN.CHECKPOINT_MINUTES = 10.0

# Each minibatch's draws begin with the seed RNG_SEED, the epoch and its place in the epoch's order, and an order
# ends with a whole real batch: what an image gives then depends on nothing drawn before, and N workers train as one
# does that makes N times the passes. Always so with several workers. False, with one: one sequence of draws, the
# original's
cfg.TRAIN.SEED_EACH_IMAGE = False

# Iterations between snapshots (one more is made at the end), and a word for their file names
cfg.TRAIN.SNAPSHOT_ITERS = 10000
cfg.TRAIN.SNAPSHOT_INFIX = ''

# Read and scale the coming images, and compute their boxes' overlaps and targets, while the net computes. Never
# changes what is drawn; so without SEED_EACH_IMAGE, where an epoch's order depends on all draws before, an epoch's
# first minibatch is waited for, and where an image's size, crop or colours are drawn, it is scaled only once they are
cfg.TRAIN.USE_PREFETCH = True

# Processes of each worker that do so (each holds two minibatches). 0: two threads, which start at once. -1: threads
# where the net computes on the CPU; on a GPU four processes, or as many as there are CPU cores for each worker
cfg.TRAIN.LOADER_WORKERS = -1

# Divide regression targets by their standard deviation after subtracting their mean. Per class from the
# training set, or, with PRECOMPUTED (needed to train with an RPN end to end), by the four numbers here
cfg.TRAIN.BBOX_NORMALIZE_TARGETS = True
cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = False
cfg.TRAIN.BBOX_NORMALIZE_MEANS = (0.0, 0.0, 0.0, 0.0)
cfg.TRAIN.BBOX_NORMALIZE_STDS = (0.1, 0.1, 0.2, 0.2)

# Weights of dx, dy, dw, dh in a RoI's regression loss
cfg.TRAIN.BBOX_INSIDE_WEIGHTS = (1.0, 1.0, 1.0, 1.0)

# Where boxes to train on come from: 'gt', 'rpn', 'selective_search' ... (imdb.set_proposal_method)
cfg.TRAIN.PROPOSAL_METHOD = 'selective_search'

# Serve wide images with wide ones, tall with tall, so that padding is small
cfg.TRAIN.ASPECT_GROUPING = True

# Grouped finer, with F > 0: by width / height in 2F bands between 1/2 and 2, evenly spaced in its logarithm, and those
# beyond. A minibatch is of one band; what is left of a band is completed by more of its images, and as many minibatches
# are drawn as there are whole ones of all images. 0: wide and tall
cfg.TRAIN.ASPECT_GROUP_FACTOR = 0

# Draw images by class, for datasets with a long tail (Shen et al. 2016, arXiv 1512.05830, section 4.2): for each place of
# an epoch's order a class of those that have images, all alike, then one of its images; an epoch is as long as it was.
# Images without objects are not drawn. With SEED_EACH_IMAGE or without
cfg.TRAIN.CLASS_AWARE = False

# The net has a region proposal network to train: the data layer serves data, im_info, gt_boxes
cfg.TRAIN.HAS_RPN = False

# An anchor is positive at IoU >= POSITIVE_OVERLAP (or if it is some object's best), negative below
# NEGATIVE_OVERLAP
cfg.TRAIN.RPN_POSITIVE_OVERLAP = 0.7
cfg.TRAIN.RPN_NEGATIVE_OVERLAP = 0.3

# An anchor that is both (an object's best, yet below NEGATIVE_OVERLAP) becomes negative
cfg.TRAIN.RPN_CLOBBER_POSITIVES = False

# Images per forward pass where an RPN trains alone, in alternating optimization: what IMS_PER_BATCH then is
cfg.TRAIN.RPN_IMS_PER_BATCH = 1

# Anchors sampled per image, and the largest share of positive ones
cfg.TRAIN.RPN_BATCHSIZE = 256
cfg.TRAIN.RPN_FG_FRACTION = 0.5

# Proposals: NMS threshold (IoU), how many of the highest scores enter NMS, how many leave it (<= 0: all; of each level of a
# pyramid 2000 enter), and the smallest width and height in pixels of the original image
cfg.TRAIN.RPN_NMS_THRESH = 0.7
cfg.TRAIN.RPN_PRE_NMS_TOP_N = 12000
cfg.TRAIN.RPN_POST_NMS_TOP_N = 2000
cfg.TRAIN.RPN_MIN_SIZE = 16

# Weights of dx, dy, dw, dh in an anchor's regression loss
cfg.TRAIN.RPN_BBOX_INSIDE_WEIGHTS = (1.0, 1.0, 1.0, 1.0)

# Anchors' box targets less these means, divided by these standard deviations (all 0: both are measured on the
# training images); snapshots hold an rpn_bbox_pred that predicts plain targets
cfg.TRAIN.RPN_NORMALIZE_TARGETS = False
cfg.TRAIN.RPN_NORMALIZE_MEANS = (0.0, 0.0, 0.0, 0.0)
cfg.TRAIN.RPN_NORMALIZE_STDS = (0.1, 0.1, 0.2, 0.2)

# Total weight p of the positive examples, 1 - p of the negative ones; negative: every example weighs the same
cfg.TRAIN.RPN_POSITIVE_WEIGHT = -1.0

# --------------------------------------------------------------------------------------------------- testing
cfg.TEST = EasyDict()

# Lengths of the short side, and longest long side, in pixels (several scales only without an RPN)
cfg.TEST.SCALES = (600,)
cfg.TEST.MAX_SIZE = 1000

# Images per forward pass, in tests and proposing
cfg.TEST.IMS_PER_BATCH = 1

# NMS threshold (IoU) between detections of one class
cfg.TEST.NMS = 0.3

# Soft-NMS instead of NMS: '' (off), 'linear' (at the IoU above) or 'gaussian' (of width SIGMA); scores that fall
# below MIN_SCORE are dropped
cfg.TEST.SOFT_NMS = ''
cfg.TEST.SOFT_NMS_SIGMA = 0.5
cfg.TEST.SOFT_NMS_MIN_SCORE = 0.001

# Detections kept: those of a higher score than SCORE_THRESH, and of an image the MAX_PER_IMAGE best (0: all); where
# test_net and tools/test_net.py are not told otherwise
cfg.TEST.SCORE_THRESH = 0.05
cfg.TEST.MAX_PER_IMAGE = 100

# Box voting: each detection that NMS keeps becomes the mean of all boxes of its class that overlap it by at least this
# (IoU), weighted by their scores (He et al. 2015, appendix B). 0: off; MR-CNN's is 0.5
cfg.TEST.VOTE = 0.0

# Box refinement: so many times every region is pooled again from where its best class moved it, for new scores and
# boxes that join the first ones before NMS (He et al. 2015, appendix B: once)
cfg.TEST.REFINE = 0

# Mirrored images are looked at too; scores and boxes are the means of both
cfg.TEST.FLIP = False

# Lengths of the short side at which regions are judged, whatever SCALES proposals come from (He et al. 2015: 200, 400,
# 600, 800, 1000); a long side has MAX_SIZE in proportion to the first of SCALES. (0,): at SCALES
cfg.TEST.REGION_SCALES = (0,)

# At which of them: a region whose sides (the root of its area) are REGION_SIDE pixels there is seen best. 'maxout': the
# two adjacent ones about that, and the larger of each feature; 'mean': these, and the mean of scores and of boxes;
# 'nearest': the one where its area is nearest to that
cfg.TEST.REGION_MERGE = 'maxout'
cfg.TEST.REGION_SIDE = 224.0

# Regions are proposed at each of REGION_SCALES, and by FLIP of mirrored images too, and joined; else of SCALES alone
cfg.TEST.JOIN_PROPOSALS = False

# Write detections.pkl beside detections.npz, for older tools
cfg.TEST.DETECTIONS_PKL = False

# Print COCO's figures too of datasets that are not COCO's, by pycocotools: AP over IoUs .50 to .95, by size, recall. A
# minute or so for the 4952 images and 20 classes of VOC 2007's test; ImageNet's tests have none
cfg.TEST.COCO_STYLE = True

# Scores are the net's raw cls_score, for SVMs trained on top, not its softmax
cfg.TEST.SVM = False

# Apply the predicted box deltas
cfg.TEST.BBOX_REG = True

# The net regresses one box for all classes, as TRAIN.AGNOSTIC has it: 8 columns, of which the last four count. Such
# a net is known by its columns; this key refuses any other
cfg.TEST.AGNOSTIC = False

# The net proposes boxes by itself; otherwise they come from PROPOSAL_METHOD
cfg.TEST.HAS_RPN = False
cfg.TEST.PROPOSAL_METHOD = 'selective_search'

# Proposals: as the keys of the same name under TRAIN
cfg.TEST.RPN_NMS_THRESH = 0.7
cfg.TEST.RPN_PRE_NMS_TOP_N = 6000
cfg.TEST.RPN_POST_NMS_TOP_N = 300
cfg.TEST.RPN_MIN_SIZE = 16

# ------------------------------------------------------------------------------------------------- Open Images
cfg.OPEN_IMAGES = EasyDict()

# Objects that are not trained on; given proposals that lie in one by more than 0.7 of their area are neither foreground
# nor background. Some of occluded, truncated, group_of, depiction, inside
cfg.OPEN_IMAGES.LEFT_OUT = ('group_of',)

# Train on an object as one of each class above its own, too, by the tree of classes. A softmax has one class for a box, so
# that by default only detections are taken for those above (below)
cfg.OPEN_IMAGES.EXPAND = False

# What is found of a class is found of those above it, too, with the same score: in tests, and in result files. Off for a net
# that was trained with EXPAND
cfg.OPEN_IMAGES.EXPAND_DETECTIONS = True

# --------------------------------------------------------------------------------------------------- both
# Boxes that agree when multiplied by this and rounded are the same box on the feature map and are computed
# once (1/16: a stride of 16 pixels). <= 0: off
cfg.DEDUP_BOXES = 1.0 / 16.0

# Subtracted from every pixel: blue, green, red, in 0..255
cfg.PIXEL_MEANS = np.array([[[102.9801, 115.9465, 122.7717]]])

# While training write losses, learning rate and seconds an iteration for TensorBoard too, to <prefix>_board beside the log; of a
# test mean AP, precision over recall and pictures, to board beside its detections; where the package tensorboard is missing,
# none of it, which is said
cfg.TENSORBOARD = False

# What nets compute in: float32; or bf16 or fp16, 16 bits of which 8 or 11 are the number's digits: faster and smaller
# on devices that multiply them (GPUs; bf16 on CPUs with instructions for it). Weights, losses, scores, boxes and
# snapshots are float32 all the same. fp16's small gradients are scaled, by what the training finds fit
cfg.PRECISION = 'float32'

# Let a GPU round the factors of float32 products to 11 bits (TF32): faster, and the figures are not quite the CPU's
cfg.TF32 = False

# Seed of numpy's and the engine's generators
cfg.RNG_SEED = 3

# A small number, to divide by what may be zero
cfg.EPS = 1e-14

# Folders: that of work (utils/places.py), its data, its nets (<MODELS_DIR>/<net>/<method>)
cfg.ROOT_DIR = HOME
cfg.DATA_DIR = osp.join(cfg.ROOT_DIR, 'data')
cfg.MODELS_DIR = osp.join(cfg.ROOT_DIR, 'models', 'pascal_voc')

# The MATLAB program, for official evaluation code that needs it
cfg.MATLAB = 'matlab'

# Results lie in output/<EXP_DIR>/<imdb>/<net>
cfg.EXP_DIR = 'default'

# NMS on the GPU, where there is one, and which
cfg.USE_GPU_NMS = True
cfg.GPU_ID = 0


def get_output_dir(imdb, net=None):
    """The folder for results of an imdb, and of a net (anything with a .name); made where missing."""
    parts = [cfg.ROOT_DIR, 'output', cfg.EXP_DIR, imdb.name] + ([net.name] if net is not None else [])
    path = osp.join(*parts)
    os.makedirs(path, exist_ok=True)
    return path


def cfg_from_file(filename):
    """Override cfg by a YAML file: a mapping with cfg's keys."""
    values = parse_yaml(read_text(filename), filename)
    if values is None:
        return
    if not isinstance(values, dict):
        raise ValueError(f'{filename}: wanted a mapping of settings, got {type(values).__name__}')
    try:
        cfg_from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise type(error)(f'{filename}: {error.args[0]}') from None


def cfg_from_list(cfg_list):
    """Override cfg by [key, value, key, value ...]: dotted keys, values as Python literals or plain words."""
    if len(cfg_list) % 2:
        raise ValueError(f'settings come as pairs of key and value, got {len(cfg_list)} words: {cfg_list}')
    cfg_from_dict(dict(zip(cfg_list[0::2], map(_literal, cfg_list[1::2]))))


@contextlib.contextmanager
def overrides(values):
    """Settings of one stage: `with overrides({'TRAIN.HAS_RPN': True}):`; then cfg is as it was."""
    before = cfg_values()
    try:
        cfg_from_dict(values)
        yield cfg
    finally:
        cfg_restore(before)


def cfg_values():
    """A copy of all settings as plain nested dicts: what a worker process is to be given."""
    return {
        key: dict(copy.deepcopy(value)) if isinstance(value, EasyDict) else copy.deepcopy(value)
        for key, value in cfg.items()
    }


def cfg_restore(values):
    """Set all settings to what cfg_values returned, here or in another process."""
    for key, value in values.items():
        if isinstance(value, dict):
            cfg[key].update(copy.deepcopy(value))
        else:
            cfg[key] = copy.deepcopy(value)


def cfg_from_dict(values):
    """Check every value first, then set them: a refused mapping changes nothing."""
    for section, key, value in [_checked(name, value) for name, value in _flat(values)]:
        section[key] = value


def _flat(values, prefix=''):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _checked(name, value):
    section, known = cfg, {full for full, _ in _flat(cfg)}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise KeyError(f'unknown setting {name}; the nearest is {near}')
    *path, key = name.split('.')
    for part in path:
        section = section[part]
    try:
        return section, key, _coerced(name, value, section[key])
    except OverflowError:
        raise ValueError(f'{name}: a number larger than a float can hold') from None


def _coerced(name, value, old):
    """value as the type of the setting it replaces: an int may stand for a float, a list for a tuple."""
    if isinstance(old, np.ndarray):
        new = np.array(value, dtype=old.dtype)
        if new.size != old.size:
            raise ValueError(f'{name} wants {old.size} numbers, got {value!r}')
        return new.reshape(old.shape)
    if isinstance(old, tuple) and isinstance(value, (list, tuple)):
        example = old[0] if old else ''  # an empty one is of words
        return tuple(_coerced(name, item, example) for item in value)
    if type(value) is type(old):
        return value
    if type(old) is float and type(value) is int:
        return float(value)
    raise TypeError(f'{name} wants {type(old).__name__} (now {old!r}), got {type(value).__name__} {value!r}')


def _literal(word):
    if not isinstance(word, str):
        return word
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


DEFAULTS = cfg_values()

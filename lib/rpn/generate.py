"""Proposals of images by an RPN net: tops rois and scores, its ProposalLayer set by cfg.TEST.RPN_*."""

import functools

import caffe
import numpy as np
from caffe.parallel import barrier

from fast_rcnn.config import cfg
from fast_rcnn.detection import rois_by_image
from fast_rcnn.inputs import forward, proposing_blobs, scaled_image
from fast_rcnn.each_image import Steps, answers, each_image
from fpn.boxes import family_of_net
from utils.arrays import leaving
from utils.progress import progress
from utils.proposals import shard_stem, write_index

# All boxes enter NMS and many leave it: a detector trains on them (a net that proposes and detects takes fewer)
SETTINGS = {'TEST.RPN_PRE_NMS_TOP_N': -1, 'TEST.RPN_POST_NMS_TOP_N': 2000}


def im_proposals(net, im):
    """im (H, W, 3) BGR -> boxes (n, 4) in its own pixels, as datasets have them, best first; scores (n, 1)."""
    return ims_proposals(net, [im])[0]


def ims_proposals(net, ims):
    """As im_proposals, of several images in one pass -> a list of (boxes, scores)."""
    family = family_of_net(net)
    return ask(net, [scaled_image(im, family) for im in ims])()


def ask(net, images):
    """A pass of the net over N Scaled -> a function that gives the boxes and scores of each: any thread may call it,
    whatever the net does by then."""
    for name in 'rois', 'scores':
        if name not in net.outputs:
            raise ValueError(f'the RPN test net gives {sorted(net.outputs)}; wanted rois and scores')
    family = family_of_net(net)
    forward(net, proposing_blobs(images, family))
    rois, scores = leaving(net.blobs['rois']), leaving(net.blobs['scores'])
    return lambda: [
        (family.datasets(family.back(boxes, size, image.shape)), scores()[rows])
        for image, (rows, boxes, size) in zip(images, rois_by_image(rois, images, family), strict=True)
    ]


def steps(net):
    """What is done with each image: rows x1 y1 x2 y2 score come of it."""
    return Steps(
        functools.partial(scaled_image, family=family_of_net(net)),
        lambda numbers, images: ask(net, images),
        lambda asked: list(map(np.hstack, asked())),
    )


def imdb_proposals(net, imdb):
    """Proposals of every image of an imdb -> a list of boxes (n_i, 4)."""
    title = f'proposals for {imdb.name}'
    images = [(i, imdb.image_path_at(i)) for i in range(imdb.num_images)]
    return [rows[:, :4].copy() for rows in progress(answers(images, steps(net), title), title, len(images))]


def write_proposals(net, imdb, path):
    """Proposals of every image of an imdb into a proposal file and its shards, those of each rank's images by that
    rank; goes on where it stopped -> path."""
    title, limit = f'proposals for {imdb.name}', cfg.TEST.RPN_POST_NMS_TOP_N
    each_image(net, imdb, shard_stem(path), steps(net), 5, limit, title)
    if caffe.solver_rank() == 0:
        write_index(path, 5, caffe.solver_count(), imdb.num_images)
    barrier()
    return path

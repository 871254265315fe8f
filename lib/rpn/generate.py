"""Proposals of images by an RPN net: tops rois and scores, its ProposalLayer set by cfg.TEST.RPN_*."""

import caffe
import numpy as np
from caffe.parallel import barrier

from fast_rcnn.config import cfg
from fast_rcnn.detection import forward, proposing_blobs
from fast_rcnn.each_image import each_image
from utils.blob import read_image
from utils.progress import progress
from utils.proposals import shard_stem, write_index

# All boxes enter NMS and many leave it: a detector trains on them (a net that proposes and detects takes fewer)
SETTINGS = {'TEST.RPN_PRE_NMS_TOP_N': -1, 'TEST.RPN_POST_NMS_TOP_N': 2000}


def im_proposals(net, im):
    """im (H, W, 3) BGR -> boxes (n, 4) in its own pixels, best first; scores (n, 1)."""
    blobs, scale = proposing_blobs(im)
    tops = forward(net, blobs)
    for name in 'rois', 'scores':
        if name not in tops:
            raise ValueError(f'the RPN test net gives {sorted(tops)}; wanted rois and scores')
    return tops['rois'][:, 1:5] / scale, tops['scores'].copy()


def imdb_proposals(net, imdb):
    """Proposals of every image of an imdb -> a list of boxes (n_i, 4)."""
    return [
        im_proposals(net, read_image(imdb.image_path_at(i)))[0]
        for i in progress(range(imdb.num_images), f'proposals for {imdb.name}')
    ]


def write_proposals(net, imdb, path):
    """Proposals of every image of an imdb into a proposal file and its shards, those of each rank's images by that
    rank; goes on where it stopped -> path."""

    def answer(i, im):
        return np.hstack(im_proposals(net, im))

    title, limit = f'proposals for {imdb.name}', cfg.TEST.RPN_POST_NMS_TOP_N
    each_image(net, imdb, shard_stem(path), answer, 5, limit, title)
    if caffe.solver_rank() == 0:
        write_index(path, 5, caffe.solver_count(), imdb.num_images)
    barrier()
    return path

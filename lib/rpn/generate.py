"""Proposals of images by an RPN net: tops rois and scores, its ProposalLayer set by cfg.TEST.RPN_*."""

from fast_rcnn.config import cfg
from fast_rcnn.test import image_blobs
from utils.blob import read_image
from utils.progress import progress

# All boxes enter NMS and many leave it: a detector trains on them (a net that proposes and detects takes fewer)
SETTINGS = {'TEST.RPN_PRE_NMS_TOP_N': -1, 'TEST.RPN_POST_NMS_TOP_N': 2000}


def im_proposals(net, im):
    """im (H, W, 3) BGR -> boxes (n, 4) in its own pixels, best first; scores (n, 1)."""
    if len(cfg.TEST.SCALES) != 1:
        raise ValueError(f'proposals are made at one scale; TEST.SCALES is {cfg.TEST.SCALES}')
    blobs, scales = image_blobs(im)
    for name, blob in blobs.items():
        net.blobs[name].reshape(*blob.shape)
    tops = net.forward(**blobs)
    for name in 'rois', 'scores':
        if name not in tops:
            raise ValueError(f'the RPN test net gives {sorted(tops)}; wanted rois and scores')
    return tops['rois'][:, 1:5] / float(scales[0]), tops['scores'].copy()


def imdb_proposals(net, imdb):
    """Proposals of every image of an imdb -> a list of boxes (n_i, 4)."""
    return scored_proposals(net, imdb)[0]


def scored_proposals(net, imdb):
    """Proposals of every image of an imdb -> boxes, a list of (n_i, 4), and scores, a list of (n_i, 1)."""
    results = [
        im_proposals(net, read_image(imdb.image_path_at(i)))
        for i in progress(range(imdb.num_images), f'proposals for {imdb.name}')
    ]
    return [boxes for boxes, _ in results], [scores for _, scores in results]

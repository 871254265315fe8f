"""Proposals of images by an RPN net: tops rois and scores, its ProposalLayer set by cfg.TEST.RPN_*."""

from fast_rcnn.detection import forward, proposing_blobs
from utils.blob import read_image
from utils.progress import progress

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
    return scored_proposals(net, imdb)[0]


def scored_proposals(net, imdb):
    """Proposals of every image of an imdb -> boxes, a list of (n_i, 4), and scores, a list of (n_i, 1)."""
    results = [
        im_proposals(net, read_image(imdb.image_path_at(i)))
        for i in progress(range(imdb.num_images), f'proposals for {imdb.name}')
    ]
    return [boxes for boxes, _ in results], [scores for _, scores in results]

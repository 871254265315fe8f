"""What lies on disk, read: each dataset format is one module here, and knows nothing of training or scores.

A format is a class of root and split, entered in FORMATS, with
    sets_dir, given()                 where image sets lie, and {name: path of the list, or ids} of those there
    ids()                             ids of all images there are
    image(id), annotation(id)         path of an image, and of its XML file (None: known to have no objects)
    default_base                      the number of the first pixel in its files; None: guess_base says

voc, imagenet       the formats
voc_xml             annotation files of both, and a cache for large sets
coco                COCO's annotation files, one for all images of a split, and a cache for large ones
openimages          Open Images' tables and its tree of classes, or the same in COCO's format
truth               annotations made ground truth: what training gets as Records, and evaluators as Truth
boxes               the one rule for annotated boxes
images              image files and image sets
selective_search    given proposals in .mat files
"""

from datasets.readers.imagenet import ImagenetLayout
from datasets.readers.voc import VocLayout

FORMATS = {'voc': VocLayout, 'imagenet': ImagenetLayout}

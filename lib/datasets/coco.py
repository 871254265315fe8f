"""COCO 2014, 2015 and 2017, imdb names coco_<year>_<split>, in data/coco: annotations/ and images/<set><year>/.

minival and valminusminival of 2014 are parts of its val: 5,000 images, which are 2017's val, and the others, which
2017's train has with those of 2014's train.
"""

import os

from datasets.coco_imdb import coco_imdb
from fast_rcnn.config import cfg

NAMES = (
    'person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop sign, '
    'parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -, '
    '-, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, '
    'surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, '
    'broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -, '
    'tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, '
    'vase, scissors, teddy bear, hair drier, toothbrush'
)
# Category id -> name; of the 90 that were drawn up ten have no annotation
CATEGORIES = {number: name for number, name in enumerate(NAMES.split(', '), 1) if name != '-'}
CLASSES = tuple(CATEGORIES.values())
SPLITS = {
    '2014': ('train', 'val', 'minival', 'valminusminival', 'test'),
    '2015': ('test', 'test-dev'),
    '2017': ('train', 'val', 'test', 'test-dev'),
}
# Whose images a split's are
IMAGES_OF = {'minival': 'val', 'valminusminival': 'val', 'test-dev': 'test'}


class coco(coco_imdb):
    """image_set: one of SPLITS[year]; path: the folder of annotations and images."""

    def __init__(self, image_set, year, path=None):
        root, whole = path or os.path.join(cfg.DATA_DIR, 'coco'), f'{image_set}{year}'
        stem = 'image_info' if image_set.startswith('test') else 'instances'
        images = f'{IMAGES_OF.get(image_set, image_set)}{year}'
        folder = os.path.join(root, 'images', images)
        super().__init__(
            f'coco_{year}_{image_set}',
            whole,
            os.path.join(root, 'annotations', f'{stem}_{whole}.json'),
            folder if os.path.isdir(folder) else os.path.join(root, images),
            CLASSES,
            f'COCO, or a link to it, is expected in {root}: data/README.md says how it is laid out',
        )
        found = dict(zip(self.file.category_ids.tolist(), self.file.names.tolist()))
        if found != CATEGORIES:
            odd = sorted(set(found.items()) ^ set(CATEGORIES.items()))[0]
            raise ValueError(
                f'{self.path}: {len(found)} categories, not the 80 of COCO: {odd[1]!r} with id {odd[0]} is in one only; '
                f'a dataset of other categories wants a YAML file (data/datasets/README.md)'
            )

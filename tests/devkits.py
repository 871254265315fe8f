"""Tiny datasets for tests, written in the layouts of VOC, ILSVRC DET and COCO."""

import json
import os
import runpy

import cv2
import numpy as np

WIDTH, HEIGHT = 60, 40


def obj(name, xmin, ymin, xmax, ymax, difficult=0):
    """An <object>."""
    corners = ''.join(
        f'<{tag}>{value}</{tag}>'
        for tag, value in (('xmin', xmin), ('ymin', ymin), ('xmax', xmax), ('ymax', ymax))
    )
    return f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>'


def write(path, text):
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as stream:
        stream.write(text)
    return str(path)


def write_xml(path, objects, width=WIDTH, height=HEIGHT):
    size = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
    return write(path, f'<annotation>{size}{"".join(objects)}</annotation>')


def write_image(path, width=WIDTH, height=HEIGHT):
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return str(path)


def write_voc(root, images, sets, extension='.jpg'):
    """images: id -> list of obj(...); sets: name -> ids."""
    for image_id, objects in images.items():
        write_xml(f'{root}/Annotations/{image_id}.xml', objects)
        write_image(f'{root}/JPEGImages/{image_id}{extension}')
    for name, ids in sets.items():
        write(f'{root}/ImageSets/Main/{name}.txt', ''.join(f'{image_id}\n' for image_id in ids))


def write_imagenet(root, images, sets):
    """images: (folder, id) -> list of obj(...); sets: name -> ids."""
    for (folder, image_id), objects in images.items():
        write_xml(f'{root}/Annotations/DET/{folder}/{image_id}.xml', objects)
        write_image(f'{root}/Data/DET/{folder}/{image_id}.jpg')
        os.rename(f'{root}/Data/DET/{folder}/{image_id}.jpg', f'{root}/Data/DET/{folder}/{image_id}.JPEG')
    for name, ids in sets.items():
        lines = [f'{image_id} {i}\n' for i, image_id in enumerate(ids, 1)]
        write(f'{root}/ImageSets/DET/{name}.txt', ''.join(lines))


def coco_object(category, x, y, width, height, **more):
    """An annotation of COCO's, less its numbers; more: what else it has, over area and iscrowd."""
    box = [x, y, width, height]
    return {'category_id': category, 'bbox': box, 'area': width * height, 'iscrowd': 0, **more}


def write_coco(path, images, categories, **more):
    """COCO's annotation file. images: {file name: (width, height, list of coco_object(...))}; categories: {id: name}.
    Images are numbered 10, 20 ..., annotations from 1; more: what else the file holds."""
    rows, objects = [], []
    for number, (name, (width, height, found)) in enumerate(images.items(), 1):
        rows.append({'id': 10 * number, 'file_name': name, 'width': width, 'height': height})
        objects += [
            {'id': len(objects) + i, 'image_id': 10 * number, **item} for i, item in enumerate(found, 1)
        ]
    names = [{'id': number, 'name': name, 'supercategory': ''} for number, name in categories.items()]
    return write(path, json.dumps({'images': rows, 'annotations': objects, 'categories': names, **more}))


TOY_CATEGORIES = {1: 'circle', 3: 'square', 7: 'triangle', 8: 'star'}
TOY_YAML = """\
name: toycoco
format: coco
root: .
cfg:
  TRAIN: {SCALES: [200], MAX_SIZE: 300, RPN_MIN_SIZE: 8, RPN_BATCHSIZE: 128, BATCH_SIZE: 64, BG_THRESH_LO: 0.0}
  TEST: {SCALES: [200], MAX_SIZE: 300, RPN_MIN_SIZE: 8, RPN_POST_NMS_TOP_N: 100}
"""


def write_coco_toy(root, train=6, val=4, seed=3):
    """Drawn shapes (data/make_toy.py) as a dataset in COCO's format -> its YAML file. Category ids have gaps; the second
    image of each split has no objects, the first a crowd in its lower half."""
    draw = runpy.run_path(os.path.join(os.path.dirname(__file__), '..', 'data', 'make_toy.py'))['draw']
    ids = {name: number for number, name in TOY_CATEGORIES.items()}
    random = np.random.default_rng(seed)
    for split, count in ('train', train), ('val', val):
        images = {}
        for i in range(count):
            pixels, objects = draw(random)
            height, width = pixels.shape[:2]
            name, path = f'{split}_{i:04d}.jpg', f'{root}/images/{split}/{split}_{i:04d}.jpg'
            os.makedirs(os.path.dirname(path), exist_ok=True)
            assert cv2.imwrite(path, pixels)
            found = [
                coco_object(ids[cls], x1, y1, x2 - x1 + 1, y2 - y1 + 1)
                for cls, (x1, y1, x2, y2), _ in objects
            ]
            images[name] = width, height, [] if i == 1 else found + [_crowd(width, height)] * (i == 0)
        write_coco(f'{root}/annotations/instances_{split}.json', images, TOY_CATEGORIES)
    return write(f'{root}/toycoco.yml', TOY_YAML)


def _crowd(width, height):
    """A crowd of stars in the lower half of an image; its mask is run-length encoded, column by column."""
    upper, lower = height // 2, height - height // 2
    mask = {'size': [height, width], 'counts': [upper, lower] * width}
    return coco_object(8, 0, upper, width, lower, iscrowd=1, segmentation=mask)


# Classes, their tree, and tables of four images: a to d
OPEN_IMAGES_CLASSES = {
    '/m/cat': 'Cat',
    '/m/animal': 'Animal',
    '/m/dog': 'Dog',
    '/m/car': 'Car',
    '/m/toy': 'Toy, small',
}
OPEN_IMAGES_TREE = {
    'LabelName': '/m/0bl9f',
    'Subcategory': [
        {
            'LabelName': '/m/animal',
            'Subcategory': [
                {'LabelName': '/m/cat', 'Part': [{'LabelName': '/m/toy'}]},
                {'LabelName': '/m/dog'},
            ],
        },
        {'LabelName': '/m/car'},
        {'LabelName': '/m/toy', 'Subcategory': [{'LabelName': '/m/car'}]},
    ],
}
OPEN_IMAGES_HEAD = 'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside'
OPEN_IMAGES_BOXES = """b,xclick,/m/cat,1,0.1,0.5,0.2,0.6,0,1,0,0,0
a,xclick,/m/dog,1,0,1,0,1,0,0,0,0,0
b,xclick,/m/car,1,0.5,1,0.5,1,1,0,1,-1,0
b,activemil,/m/hat,1,0.5,1,0.5,1,0,0,0,0,0
d,xclick,/m/cat,1,0.25,0.75,0.25,0.75,-1,-1,-1,1,-1
x,xclick,/m/cat,1,0.25,0.75,0.25,0.75,0,0,0,0,0
"""
OPEN_IMAGES_LABELS = """ImageID,Source,LabelName,Confidence
a,verification,/m/animal,1
c,verification,/m/toy,1
b,verification,/m/animal,0
d,verification,/m/car,0
"""


def write_open_images(root):
    """The val set of Open Images: four images of 100 x 50 pixels."""
    classes = ''.join(f'{mid},"{name}"\n' for mid, name in OPEN_IMAGES_CLASSES.items())
    write(f'{root}/class-descriptions-boxable.csv', classes)
    write(f'{root}/bbox_labels_600_hierarchy.json', json.dumps(OPEN_IMAGES_TREE))
    boxes = f'{OPEN_IMAGES_HEAD}\n{OPEN_IMAGES_BOXES}'
    write(f'{root}/annotations/validation-annotations-bbox.csv', boxes)
    labels = f'{root}/annotations/validation-annotations-human-imagelabels-boxable.csv'
    write(labels, OPEN_IMAGES_LABELS)
    rows = ''.join(f'{name},validation,"a, title"\n' for name in 'abcd')
    write(f'{root}/validation-images.csv', f'ImageID,Subset,Title\n{rows}')
    for name in 'abcd':
        write_image(f'{root}/validation/{name}.jpg', 100, 50)

"""Tiny datasets for tests, written in the layouts of VOC and ILSVRC DET."""

import os

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

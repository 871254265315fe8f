"""What a training set lets expect, in a few lines: images and objects of each class, and what to do where they are few."""

import numpy as np

SHOWN = 10  # classes, those with the fewest images
FEW, SOME = 100, 1000  # images of a class
PRESETS = (
    '--preset augment makes the most of them; with from_nothing, of a net that has no weights to start from'
)


def advice(imdb):
    """Lines of text for the training images of an imdb with K classes."""
    images, objects = counts(imdb)
    order = np.argsort(images, kind='stable')
    names = [str(name) for name in imdb.classes[1:]]
    told = [f'{names[k]} {images[k]} images, {objects[k]} objects' for k in order[:SHOWN]]
    most = ', the fewest first' if len(names) > 1 else ''
    more = [f'... and {len(names) - SHOWN} classes more'] if len(names) > SHOWN else []
    few = [names[k] for k in order if images[k] < FEW]
    lines = [f'{imdb.name}: {imdb.num_images} images, {len(names)} classes{most}', *told, *more]
    if few:
        lines.append(
            f'{len(few)} of them have fewer than {FEW} images: a net that starts from nothing does '
            'only for objects that look alike; else start from weights where there are any; more images help before '
            f'all else. {PRESETS}'
        )
    elif images.min() < SOME:
        lines.append(
            f'Hundreds of images a class: they do for objects that look alike; varied ones want more. {PRESETS}'
        )
    if images.max() > 10 * max(images.min(), 1):
        lines.append(
            'Some classes have ten times the images of others: --set TRAIN.CLASS_AWARE True draws images by class'
        )
    return lines


def counts(imdb):
    """Of each class but the background (K,): how many images have one, how many objects there are."""
    imdb.set_proposal_method('gt')
    images, objects = np.zeros((2, imdb.num_classes), np.int64)
    for entry in imdb.roidb:
        numbers, times = np.unique(entry['gt_classes'], return_counts=True)
        images[numbers] += 1
        objects[numbers] += times
    return images[1:], objects[1:]

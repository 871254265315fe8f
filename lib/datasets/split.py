"""Image sets for a dataset that has none: its images, divided by chance."""

import os

import numpy as np

from utils.files import atomic_path


def divide(ids, shares, seed):
    """{split: ids, sorted}: of N ids, round(N x share) for each of shares {split: share}, at least one; the
    rest for 'train'. The same ids and seed give the same splits, whatever the order of ids."""
    ids = sorted(ids)
    counts = {name: max(round(len(ids) * share), 1) for name, share in shares.items()}
    if sum(counts.values()) >= len(ids):
        raise ValueError(f'{len(ids)} images are too few for {counts} and train')
    order = np.random.default_rng(seed).permutation(len(ids))
    cuts = np.cumsum(list(counts.values()))
    parts = np.split(order, cuts)
    return {name: [ids[i] for i in np.sort(part)] for name, part in zip([*counts, 'train'], parts)}


def annotated(layout):
    """Ids of a layout's images that have an annotation file, and how many images have none."""
    ids = layout.ids()
    paths = [layout.annotation(image_id) for image_id in ids]
    with_file = [image_id for image_id, path in zip(ids, paths) if path and os.path.exists(path)]
    return with_file, len(ids) - len(with_file)


def write_lists(layout, splits):
    """Write the layout's image sets, none of which may be there -> their paths."""
    paths = {name: os.path.join(layout.sets_dir, name + '.txt') for name in splits}
    there = [path for path in paths.values() if os.path.exists(path)]
    if there:
        raise ValueError(f'{there[0]}: is there already; nothing is written')
    for name, path in paths.items():
        with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            stream.writelines(f'{image_id}\n' for image_id in splits[name])
    return list(paths.values())

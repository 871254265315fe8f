"""Several datasets as one: what the name of an imdb means that is the names of others with + between."""

import os

import numpy as np

from datasets.imdb import imdb


class joined(imdb):
    """parts: imdbs of the same classes. Its images are theirs, one part after the other; so are proposals in files."""

    def __init__(self, parts):
        super().__init__('+'.join(part.name for part in parts))
        if len({tuple(part.classes) for part in parts}) > 1:
            raise ValueError(f'{self.name}: these have different classes')
        if len({part.name for part in parts}) < len(parts):
            raise ValueError(f'{self.name}: an imdb is named twice')
        self.parts = parts
        self._classes = parts[0].classes
        self._image_index = [index for part in parts for index in part.image_index]
        self._ends = np.cumsum([part.num_images for part in parts])
        self._roidb_handler = self.gt_roidb
        self.config['competition'] = any(part.config.get('competition') for part in parts)

    @property
    def class_names(self):
        return self.parts[0].class_names

    @property
    def shares(self):
        """[(part, number of its first image)]"""
        return [(part, int(end) - part.num_images) for part, end in zip(self.parts, self._ends)]

    @property
    def scores_masks(self):
        return all(part.scores_masks for part in self.parts)

    def _at(self, i):
        """The part that has image i, and its number there."""
        i %= int(self._ends[-1])
        part, first = self.shares[int(np.searchsorted(self._ends, i, 'right'))]
        return part, i - first

    def image_path_at(self, i):
        part, place = self._at(i)
        return part.image_path_at(place)

    def image_size_at(self, i):
        part, place = self._at(i)
        return part.image_size_at(place)

    def gt_roidb(self):
        return [entry for part in self.parts for entry in part.gt_roidb()]

    def selective_search_roidb(self):
        """Each part's, from its own file."""
        return [entry for part in self.parts for entry in part.selective_search_roidb()]

    def competition_mode(self, on):
        super().competition_mode(on)
        for part in self.parts:
            part.competition_mode(on)

    def evaluate_detections(self, all_boxes, output_dir=None, **more):
        """Each part by its own rule, into a folder of its name -> the mean of their mean APs. more: what else is known by
        class and image, masks."""
        means, given = [], {'': all_boxes, **more}
        for part, first in self.shares:
            print(f'{part.name}:')
            images = slice(first, first + part.num_images)
            mine = {key: [of_class[images] for of_class in found] for key, found in given.items()}
            folder = output_dir and os.path.join(output_dir, part.name)
            means.append(part.evaluate_detections(mine.pop(''), folder, **mine))
        print(f'Mean AP = {np.mean(means):.4f} (the mean of {len(means)} sets)')
        return float(np.mean(means))

"""Datasets annotated by VOC-style XML files."""

import os

from datasets.annotated import annotated
from datasets.readers.truth import make_truth
from datasets.readers.voc_xml import NO_OBJECTS, read_annotations, read_xml
from fast_rcnn.config import cfg


class xml_imdb(annotated):
    """split (a word in result files' names), classes (without background), layout (of readers.FORMATS) and
    image_index say what the dataset is; base is the number of the first pixel in its files."""

    def __init__(self, name, split, classes, layout, image_index, base):
        super().__init__(name, split, classes, image_index)
        self.layout = layout
        self.base = base

    def image_path_at(self, i):
        return self.image_path_from_index(self._image_index[i])

    def image_path_from_index(self, index):
        """The image's file, by its id."""
        return self.layout.image(index)

    def image_key(self, i):
        return self.layout.root, self._image_index[i]

    def annotation_path_at(self, i):
        """The XML file of image i, None if it is known to have no objects."""
        return self.layout.annotation(self._image_index[i])

    def annotation_at(self, i):
        path = self.annotation_path_at(i)
        return read_xml(path) if path else NO_OBJECTS

    def _truth(self):
        files = [(self.annotation_path_at(i), path) for i, path in enumerate(self._image_paths)]
        data = read_annotations(files, self.name, os.path.join(cfg.DATA_DIR, 'cache'))
        return make_truth(data, self._known_classes(data), self.base)

"""Found: the detections of many classes and images in three arrays, where lists of lists of arrays would be too many.

D detections, K classes, N images.
"""

from collections.abc import Sequence

import numpy as np


class OfClass(Sequence):
    """The detections of a class: [image] -> rows (n, 5) x1 y1 x2 y2 score; images (d,), rising, rows (d, 5)."""

    def __init__(self, images, rows, num_images):
        self.images, self.rows, self.num_images = images, rows, num_images

    def __len__(self):
        return self.num_images

    def __getitem__(self, image):
        if isinstance(image, slice):
            first, end, step = image.indices(self.num_images)
            if step != 1:
                raise ValueError(f'wanted images one after the other, got steps of {step}')
            mine = slice(*np.searchsorted(self.images, [first, end]))
            return OfClass(self.images[mine] - first, self.rows[mine], max(0, end - first))
        if not -self.num_images <= image < self.num_images:
            raise IndexError(f'image {image} of {self.num_images}')
        image %= self.num_images
        return self.rows[slice(*np.searchsorted(self.images, [image, image + 1]))]


class Found(Sequence):
    """[class] -> OfClass; so [class][image] is an array (n, 5), as in a list of lists. classes (D,), images (D,): what each of
    rows (D, 5), x1 y1 x2 y2 score, is of; those of a class in an image keep their order."""

    def __init__(self, classes, images, rows, num_classes, num_images):
        order = np.lexsort((images, classes))
        self.images, self.rows = np.asarray(images)[order], np.asarray(rows)[order]
        self.starts = np.searchsorted(np.asarray(classes)[order], np.arange(num_classes + 1))
        self.num_images = num_images

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, k):
        if not -len(self) <= k < len(self):
            raise IndexError(f'class {k} of {len(self)}')
        mine = slice(*self.starts[k % len(self) :][:2])
        return OfClass(self.images[mine], self.rows[mine], self.num_images)

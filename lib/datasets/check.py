"""What is in a dataset, and what is wrong with it: every problem, by file, object and rule."""

from collections import Counter
from typing import NamedTuple

from PIL import Image

from datasets.annotated import annotated
from datasets.readers.boxes import clean_boxes
from datasets.readers.images import EXIF_ORIENTATION, image_size
from utils.blob import read_image
from utils.progress import progress
from utils.words import nearest

# What becomes of a box that breaks a rule of boxes.clean_boxes
TREATMENT = {
    'inverted': 'corners are swapped back',
    'clipped': "is cut at the image's edge",
    'outside': 'is dropped',
    'zero area': 'is dropped',
}


class Problem(NamedTuple):
    """stops: training or testing on the dataset would end with an error."""

    path: str
    text: str
    stops: bool

    def __str__(self):
        return f'{self.path}: {self.text}' + ' [stops training]' * self.stops


class Survey:
    """Problems (list) and counts of some annotated imdbs; an image that several of them hold is looked at once."""

    def __init__(self, imdbs):
        for imdb in imdbs:
            if not isinstance(imdb, annotated):
                raise ValueError(
                    f'{imdb.name}: not annotated in XML or JSON files, which is what can be checked'
                )
        self.problems = []
        self.classes = imdbs[0].classes[1:]
        self.unknown = {}  # name of an unknown class -> (file, number) of its objects
        self.names = {}  # key of an image -> names of its objects
        self.images = self.empty = self.difficult = 0
        for fault in getattr(getattr(imdbs[0], 'description', None), 'faults', ()):
            self._add(*fault.split(': ', 1), stops=True)
        unique = {imdb.image_key(i): (imdb, i) for imdb in imdbs for i in range(imdb.num_images)}
        for imdb, i in progress(list(unique.values()), 'checking'):
            self._survey_image(imdb, i)
        self._unknown_classes()
        self.by_split = [self._names_of(imdb) for imdb in imdbs]
        self.objects = Counter(name for names in self.names.values() for name in names)
        self._compare(*train_and_test(imdbs))

    def _names_of(self, imdb):
        """Counter of the names of an imdb's objects."""
        of_images = (self.names.get(imdb.image_key(i), ()) for i in range(imdb.num_images))
        return Counter(name for names in of_images for name in names)

    def _compare(self, train, test):
        """What is trained on says nothing when it is tested on."""
        trained, tested = ({imdb.image_key(i) for i in range(imdb.num_images)} for imdb in (train, test))
        common, total = trained & tested, len(tested)
        if train is not test and common:
            self._add(
                test.name,
                f'{"all" if len(common) == total else len(common)} of its {total} images are in '
                f'{train.name} too: the test does not say how well new images are done',
            )

    @property
    def stops(self):
        return sum(problem.stops for problem in self.problems)

    def _survey_image(self, imdb, i):
        size = self._image(imdb, i)
        try:
            path, annotation = imdb.annotation_path_at(i), imdb.annotation_at(i)
        except (OSError, ValueError) as error:
            self.problems.append(_from_error(error, imdb, i))
            return
        self.images += 1
        self.empty += not annotation.names
        self.difficult += int(annotation.difficult.sum())
        self.names[imdb.image_key(i)] = annotation.names
        if size and annotation.size and size != annotation.size:
            self._add(path, 'size is {}x{}, but the image has {}x{} pixels'.format(*annotation.size, *size))
        self._classes(imdb, path, annotation)
        if size or annotation.size:
            self._boxes(imdb, path, annotation, size or annotation.size)
        for number, text in imdb.mask_faults_at(i):
            self._add(path, f'object {number} ({annotation.names[number - 1]}): {text}')

    def _image(self, imdb, i):
        """(width, height) of the image, or None where it cannot be read."""
        try:
            path = imdb.image_path_at(i)
            size = image_size(path)
            read_image(path)
        except (OSError, ValueError) as error:
            self.problems.append(_from_error(error, imdb, i))
            return None
        try:
            with Image.open(path) as image:
                if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                    self._add(path, f'is turned by its EXIF tag; {imdb.turned}')
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            self._add(path, f'damaged image ({error})')
        return size

    def _classes(self, imdb, path, annotation):
        for number, name in enumerate(annotation.names, 1):
            if imdb.class_index(name) is None:
                self.unknown.setdefault(name, []).append((path, number))

    def _unknown_classes(self):
        """One problem for each unknown class, however many objects have it."""
        for name, found in self.unknown.items():
            path, number = found[0]
            more = f' (and {len(found) - 1} more objects)' if len(found) > 1 else ''
            near = nearest(name, self.classes)
            self._add(
                path, f'object {number} ({name}){more}: unknown class; the nearest is {near!r}', stops=True
            )

    def _boxes(self, imdb, path, annotation, size):
        faults = clean_boxes(annotation.boxes, *size, imdb.base)[1]
        for number, (name, box) in enumerate(zip(annotation.names, annotation.boxes.tolist()), 1):
            for rule, mask in faults.items():
                if mask[number - 1]:
                    corners = 'xmin {:g} ymin {:g} xmax {:g} ymax {:g}'.format(*box)
                    self._add(
                        path,
                        f'object {number} ({name}): {rule}: {corners} of {size[0]}x{size[1]} '
                        f'pixels counted from {imdb.base}; {TREATMENT[rule]}',
                    )

    def _add(self, path, text, stops=False):
        self.problems.append(Problem(path, text, stops))


def train_and_test(imdbs):
    """Of a dataset's imdbs those that the scripts train and test on; of one imdb, it and itself."""
    described = getattr(imdbs[0], 'description', None)
    by_split = {imdb.split: imdb for imdb in imdbs}
    if described and {described.train, described.test} <= by_split.keys():
        return by_split[described.train], by_split[described.test]
    return imdbs[0], imdbs[-1]


def _from_error(error, imdb, i):
    """A file that cannot be read. Messages of our own begin with its path, the system's do not."""
    if getattr(error, 'filename', None):
        return Problem(error.filename, error.strerror, True)
    path, _, text = str(error).partition(': ')
    if not text:
        return Problem(f'{imdb.name}, image {imdb.image_index[i]}', path, True)
    return Problem(path, text, True)

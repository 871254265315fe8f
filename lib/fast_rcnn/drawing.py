"""Drawing: boxes, masks and names on a picture, legible whatever its size.

A drawn object is (name, score or None, box x1 y1 x2 y2) and may have a mask behind it, pycocotools' RLE; colours follow the
names. '' is a box without a label.
"""

import dataclasses

import cv2
import numpy as np

from utils.files import atomic_path

FONT = cv2.FONT_HERSHEY_SIMPLEX
TYPICAL = 800  # the long side, in pixels, at which text and lines have their plain size
SMALL = 400  # a picture whose long side is shorter is enlarged to at least this
LARGE = 3000  # ... and one that labels would cover, as long as its long side stays below this
LABELS = 200  # boxes that get one: the best
TOLD = 10  # objects that a log names one by one: the best
COVERED = 0.2  # the share of a picture that labels may cover
PAD = 3  # pixels between a label's text and its edge
TINT = 0.4  # the share of its class's colour in a mask's pixels


def listed(found, classes, thresh, masks=None):
    """found[class] (n, 5) x1 y1 x2 y2 score -> what draw takes: the objects with score >= thresh, best first. masks[class]:
    RLEs (n,) of these."""
    masks = masks or [None] * len(found)
    objects = [
        (name, float(row[4]), tuple(map(float, row[:4])), *mask)
        for name, rows, rles in zip(classes, found, masks, strict=True)
        for row, *mask in (zip(rows) if rles is None else zip(rows, rles, strict=True))
        if row[4] >= thresh
    ]
    return sorted(objects, key=lambda one: -one[1])


def in_words(listing):
    """What listed gave as a line of a log: the TOLD best with their scores, and how many more there are."""
    best = ', '.join(f'{name} {score:.2f}' for name, score, *_ in listing[:TOLD])
    return (best or 'nothing') + (f' and {len(listing) - TOLD} more' if len(listing) > TOLD else '')


def draw(image, objects, classes=()):
    """A copy of image (H, W, 3) BGR with objects, best first.

    A box each in its class's colour, masks in a tint of it, and labels of the LABELS best, clear of each other as long as
    there is room. Small and crowded pictures are enlarged. classes: all names, for colours that stay.
    """
    texts = [name if score is None else f'{name} {score:.2f}' for name, score, *_ in objects[:LABELS]]
    image, factor, style = _canvas(image, texts)
    names = dict.fromkeys([*classes, *(name for name, *_ in objects)])
    order = {name: i for i, name in enumerate(names)}
    colours = [_colour(order[name]) for name, *_ in objects]
    boxes = [np.multiply(box, factor) for _, _, box, *_ in objects]
    for colour, (_, _, _, *mask) in zip(colours[::-1], objects[::-1]):
        for rle in mask:
            _tint(image, rle, factor, colour, style.thick)
    for colour, box in zip(colours[::-1], boxes[::-1]):
        corners = np.round(box).astype(int).reshape(2, 2).tolist()
        cv2.rectangle(image, *corners, (0, 0, 0), style.thick + 2)
        cv2.rectangle(image, *corners, colour, style.thick)
    places = np.zeros((0, 4))
    for text, colour, box in zip(texts, colours, boxes):
        if not text:
            continue
        places = np.vstack([places, _place(box, *style.label_size(text), image.shape, places)])
        _label(image, text, places[-1], box, style, colour)
    return image


def save_picture(path, image):
    """Write image (H, W, 3) BGR to path in one piece, in the format that its ending names."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(temporary, image):
            raise OSError(f'{path}: the picture could not be written')


def show(im, objects, classes=()):
    """The picture as draw has it in a matplotlib window; returns when that is closed."""
    import matplotlib.pyplot as plt  # nothing else wants a window

    plt.cla()
    plt.imshow(draw(im, objects, classes)[:, :, ::-1])
    plt.show()


def vis_detections(im, class_name, dets, thresh=0.3):
    """Show im (H, W, 3) BGR with one class's dets (n, 5) of score > thresh, if there are any."""
    objects = [(class_name, float(row[4]), tuple(row[:4])) for row in dets if row[4] > thresh]
    if objects:
        show(im, objects)


@dataclasses.dataclass
class _Style:
    """size: OpenCV's font scale; thick: of lines, pen: of letters, in pixels."""

    size: float
    thick: int
    pen: int

    def label_size(self, text):
        """Width and height in pixels."""
        (width, height), below = cv2.getTextSize(text, FONT, self.size, self.pen)
        return width + 2 * PAD, height + below + 2 * PAD


def _canvas(image, texts):
    """A copy of image, enlarged where it is small or labels would cover it, and widened where the longest label
    does not fit; the factor of its enlargement; the style of what is drawn on it."""
    long = max(image.shape[:2])
    factor = max(1, -(-SMALL // long))
    scale = factor * long / TYPICAL
    style = _Style(max(0.42, 0.5 * scale), max(2, round(2 * scale)), max(1, round(scale)))
    sizes = np.array([style.label_size(text) for text in texts]).reshape(-1, 2)
    area = image.shape[0] * image.shape[1]
    while sizes.prod(1).sum() > COVERED * area * factor**2 and long * (factor + 1) <= LARGE:
        factor += 1
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    more = max(0, int(sizes[:, 0].max(initial=0)) - image.shape[1])
    return cv2.copyMakeBorder(image, 0, 0, 0, more, cv2.BORDER_CONSTANT, value=(255, 255, 255)), factor, style


def _tint(image, rle, factor, colour, thick):
    """Tints the pixels of a mask, which is of the picture before it was enlarged by a factor, and draws its edge."""
    from pycocotools import mask as coco_mask  # few pictures have masks

    mask = cv2.resize(coco_mask.decode(rle) * np.float32(1), None, fx=factor, fy=factor) > 0.5
    part = image[: mask.shape[0], : mask.shape[1]]
    part[mask] = np.rint(part[mask] * (1 - TINT) + np.multiply(colour, TINT)).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, edges, -1, colour, max(1, thick // 2), cv2.LINE_AA)


def _colour(i):
    """The i-th of many colours that differ, light enough for black text: BGR."""
    hue = int(180 * (i * 0.618034 % 1))
    return cv2.cvtColor(np.uint8([[(hue, 190, 255)]]), cv2.COLOR_HSV2BGR)[0, 0].tolist()


def _place(box, width, height, shape, taken):
    """Where a label goes -> x1 y1 x2 y2: over the box, in it, under it, else the nearest place, in the picture
    and off those taken (n, 4); where all is taken, the place that covers least of them."""
    x1, y1, x2, y2 = box
    near = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)]
    place, covered = _clearest(np.array(near), width, height, shape, taken)
    if covered:
        grid = np.mgrid[0 : shape[1] : max(width // 2, 1), 0 : shape[0] : height].reshape(2, -1).T
        nearest_first = grid[np.abs(grid - [x1, y1]).sum(1).argsort(kind='stable')]
        place, _ = _clearest(nearest_first, width, height, shape, taken)
    return place


def _clearest(corners, width, height, shape, taken):
    """Of labels at upper left corners (n, 2), moved into the picture, the first that covers least -> its place,
    the pixels it covers."""
    corners = np.clip(corners, 0, np.maximum([shape[1] - width, shape[0] - height], 0))
    places = np.hstack([corners, corners + [width, height]])
    covered = np.zeros(len(places))
    for x1, y1, x2, y2 in taken:
        wide = np.minimum(places[:, 2], x2) - np.maximum(places[:, 0], x1)
        high = np.minimum(places[:, 3], y2) - np.maximum(places[:, 1], y1)
        covered += wide.clip(0) * high.clip(0)
    return places[covered.argmin()], covered.min()


def _label(image, text, place, box, style, colour):
    """Black text on its class's colour; a line to the box where the label does not touch it."""
    place = np.round(place).astype(int)
    corners = place.reshape(2, 2).tolist()
    at_box = np.clip(place.reshape(2, 2).mean(0), box[:2], box[2:]).round().astype(int)
    at_label = np.clip(at_box, place[:2], place[2:])
    if np.abs(at_box - at_label).max() > style.thick:
        cv2.line(image, at_box.tolist(), at_label.tolist(), colour, style.thick, cv2.LINE_AA)
    cv2.rectangle(image, *corners, colour, cv2.FILLED)
    below = cv2.getTextSize(text, FONT, style.size, style.pen)[1]
    corner = corners[0][0] + PAD, corners[1][1] - PAD - below
    cv2.putText(image, text, corner, FONT, style.size, (0, 0, 0), style.pen, cv2.LINE_AA)

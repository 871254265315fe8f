"""Images for the data layers: read, decoded, and transformed as TransformationParameter says.

Shape letters: K channels (BGR), (H, W) the image, (h, w) the crop. Orientation tags of image files are not
applied.
"""

import io

import numpy as np
import cv2
import torch
from google.protobuf.message import DecodeError

from ... import io as images
from ...format.images import check_size
from ...proto import caffe_pb2

# How an image is decoded: in colour, gray, or as it is.
_FLAGS = {
    True: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    False: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
    None: cv2.IMREAD_UNCHANGED,
}


def read_file(path):
    """The bytes of a file as a uint8 array."""
    return np.fromfile(path, np.uint8)


def decode_image(data, name, color=True, size=(0, 0)):
    """A uint8 image (H, W, K) of an image file's bytes, resized (bilinear) to size (height, width) unless 0.

    color: True for 3 channels, False for 1, None for the file's own. ValueError names `name`.
    """
    check_size(io.BytesIO(data), data.size, name)
    image = cv2.imdecode(data, _FLAGS[color]) if data.size else None
    if image is None:
        raise ValueError(f'{name} ({data.size} bytes) cannot be decoded as an image')
    if image.dtype != np.uint8:
        raise ValueError(f'{name} has {image.dtype} pixels; wanted are bytes')
    if all(size):
        image = cv2.resize(image, size[::-1])
    return image.reshape(*image.shape[:2], -1)


def read_datum(value, name, color=None):
    """(image (K, H, W), label) of a serialized Datum: raw bytes, floats, or an encoded image.

    color: decode to 3 channels (True), to 1 (False), or as the image is (None). ValueError names `name`.
    """
    datum = read_message(caffe_pb2.Datum, value, name)
    return datum_image(datum, name, color), datum.label


def read_message(kind, value, name):
    """The protobuf message of class `kind` in the bytes `value`. ValueError names `name`."""
    try:
        return kind.FromString(bytes(value))
    except DecodeError as error:
        raise ValueError(f'{name} is no {kind.DESCRIPTOR.name}: {error}') from error


def datum_image(datum, name, color=None):
    """The image (K, H, W) of a Datum; as read_datum."""
    if datum.encoded:
        return decode_image(np.frombuffer(datum.data, np.uint8), name, color).transpose(2, 0, 1)
    try:
        image = images.datum_to_array(datum)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
    if not image.size:
        raise ValueError(f'{name} is an empty Datum: {image.shape} (channels, height, width)')
    if color is not None and len(image) != (3 if color else 1):
        raise ValueError(
            f'{name} is not encoded and has {len(image)} channels, which force_color and '
            'force_gray do not change'
        )
    return image


def read_mean(path):
    """The mean (K, H, W) of a .binaryproto file."""
    mean = caffe_pb2.BlobProto()
    try:
        with open(path, 'rb') as f:
            mean.ParseFromString(f.read())
        mean = images.blobproto_to_array(mean)
    except (DecodeError, ValueError) as error:
        raise ValueError(f'mean file {path} is no BlobProto: {error}') from error
    if mean.ndim not in (3, 4) or mean.ndim == 4 and len(mean) != 1:
        raise ValueError(f'mean file {path} has the shape {mean.shape}; wanted (1, channels, height, width)')
    return mean.reshape(mean.shape[-3:])


def values(mean_value):
    """A mean_value list as an array (K, 1, 1); 0 when none is given."""
    return np.float32(list(mean_value) or [0]).reshape(-1, 1, 1)


class Transformer:
    """transformer(image) = (image - mean) * scale, cropped and perhaps mirrored.

    The crop is anywhere in TRAIN and central in TEST; mirror: a coin for each image, in both phases. A mean
    file has the size of the whole images and is cropped with them; mean_value is one number, or one for each
    channel. For each image `generator` is drawn from in the order mirror, y, x.
    """

    fields = (
        'scale',
        'mirror',
        'crop_size',
        'mean_file',
        'mean_value',
        'force_color',
        'force_gray',
        'crop_h',
        'crop_w',
    )

    def __init__(self, param, phase, generator):
        unknown = [f.name for f, _ in param.ListFields() if f.name not in self.fields]
        if unknown:
            raise ValueError(f'transform_param: {", ".join(unknown)} is not supported')
        for a, b in (('mean_file', 'mean_value'), ('force_color', 'force_gray')):
            if getattr(param, a) and getattr(param, b):
                raise ValueError(f'transform_param: {a} and {b} exclude each other')
        self.train, self.generator = phase == caffe_pb2.TRAIN, generator
        self.scale, self.mirror = np.float32(param.scale), param.mirror
        self.crop = param.crop_h or param.crop_size, param.crop_w or param.crop_size
        if any(self.crop) and not all(self.crop):
            raise ValueError(f'transform_param: crop_h and crop_w come together, got {self.crop}')
        self.color = True if param.force_color else False if param.force_gray else None
        self.mean_file = param.mean_file
        self.mean = read_mean(self.mean_file) if self.mean_file else values(param.mean_value)

    def draw(self, count):
        """A number from 0 to count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def check_color(self, color):
        """ValueError when images are wanted otherwise than the layer reads them."""
        if self.color not in (None, color):
            raise ValueError(
                f'transform_param: force_{"gray" if color else "color"}, but the layer reads '
                f'{"colour" if color else "gray"} images'
            )

    def mean_for(self, image_shape, window):
        """The mean to subtract from that window of an image of shape (K, H, W)."""
        if self.mean_file:
            if self.mean.shape != image_shape:
                raise ValueError(
                    f'mean file {self.mean_file} has the shape {self.mean.shape}, the image {image_shape}'
                )
            return self.mean[(slice(None), *window)]
        if len(self.mean) not in (1, image_shape[0]):
            raise ValueError(f'{len(self.mean)} mean_value for {image_shape[0]} channels')
        return self.mean

    def window(self, size):
        """Slices (y, x) of the crop of an image of size = (H, W)."""
        if not all(self.crop):
            return slice(None), slice(None)
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            raise ValueError(f'a crop of {self.crop} (height, width) does not fit into an image of {size}')
        spare = [n - c for n, c in zip(size, self.crop)]
        first = [self.draw(n + 1) if self.train else n // 2 for n in spare]
        return tuple(slice(f, f + c) for f, c in zip(first, self.crop))

    def __call__(self, image, name):
        """float32 (K, h, w) of an image (K, H, W) of any type; errors name `name`."""
        return self.seen(image, *self.place(image.shape, name), name)

    def place(self, shape, name):
        """Whether an image (K, H, W) is mirrored, and the window of its crop: drawn."""
        mirror = self.mirror and self.draw(2) == 1
        try:
            return mirror, self.window(shape[1:])
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error

    def seen(self, image, mirror, window, name):
        """float32 (K, h, w): the window of an image, mirrored or not."""
        try:
            mean = self.mean_for(image.shape, window)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        result = image[(slice(None), *window)].astype(np.float32)
        result -= mean
        result *= self.scale
        return result[:, :, ::-1] if mirror else result

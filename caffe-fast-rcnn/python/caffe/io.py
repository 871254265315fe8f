"""Images in and out of nets: pycaffe's io module.

Images are float arrays (H, W, K), RGB in [0, 1], as load_image gives them; a Transformer makes blobs
(K, H, W) of them.
"""

import os

import cv2
import numpy as np

from .format.images import check_size
from .format.weights import array_to_blobproto, blobproto_to_array  # noqa: F401  public here
from .proto import caffe_pb2


# ---- protos ----


def arraylist_to_blobprotovector_str(arraylist):
    """A list of arrays as a serialized BlobProtoVector."""
    return caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(a) for a in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(serialized):
    """The list of arrays of a serialized BlobProtoVector."""
    return [blobproto_to_array(b) for b in caffe_pb2.BlobProtoVector.FromString(serialized).blobs]


def array_to_datum(arr, label=None):
    """A Datum of a (K, H, W) array: bytes where arr is uint8, else floats."""
    if arr.ndim != 3:
        raise ValueError(f'a datum wants an array (channels, height, width), got shape {arr.shape}')
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = int(label)
    return datum


def datum_to_array(datum):
    """The (K, H, W) array of a Datum: uint8 where it holds bytes, else float. ValueError if it is encoded."""
    if datum.encoded:
        raise ValueError('the datum holds an encoded image file; decode its data with cv2.imdecode')
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return values.reshape(datum.channels, datum.height, datum.width)


# ---- images ----


def load_image(filename, color=True):
    """A float32 image (H, W, 3) in RGB, or (H, W, 1) with color=False, in [0, 1].

    Alpha is dropped; orientation tags are not applied. Errors: FileNotFoundError; ValueError for a file that
    is no image.
    """
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'image {filename} does not exist')
    check_size(filename, os.path.getsize(filename), f'image {filename}')
    image = cv2.imread(str(filename), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f'image {filename} ({os.path.getsize(filename)} bytes) cannot be decoded')
    if np.issubdtype(image.dtype, np.integer):
        image = image / np.float32(np.iinfo(image.dtype).max)
    image = image.astype(np.float32).reshape(*image.shape[:2], -1)
    if image.shape[2] >= 3:
        image = image[:, :, 2::-1]
        return np.ascontiguousarray(image) if color else image @ np.float32([[0.2125], [0.7154], [0.0721]])
    gray = image[:, :, :1]
    return np.tile(gray, (1, 1, 3)) if color else gray


def resize_image(im, new_dims, interp_order=1):
    """Resize a (H, W, K) image to new_dims = (height, width) by splines of interp_order (1: linear); float32.

    As the original: one or three channels are scaled about pixel centres without smoothing, where what lies
    outside the image has its smallest value; any other number of channels corner to corner.
    """
    import scipy.ndimage  # half of the time that `import caffe` would take

    shape = (*(int(d) for d in new_dims), im.shape[-1])
    scale = np.divide(shape[:2], im.shape[:2])
    if im.shape[-1] not in (1, 3):
        return scipy.ndimage.zoom(im, (*scale, 1), order=interp_order).astype(np.float32)
    result = np.empty(shape, np.float32)
    low = im.min()
    for k in range(shape[2]):
        scipy.ndimage.zoom(
            im[:, :, k].astype(np.float32),
            scale,
            result[:, :, k],
            interp_order,
            'grid-constant',
            low,
            grid_mode=True,
        )
    return result


def oversample(images, crop_dims):
    """Ten crops of each image: four corners and centre, then their mirror images; (10 N, h, w, K) float32.

    images: iterable of (H, W, K) of one size; crop_dims: (height, width).
    """
    crop = np.array(crop_dims, int)
    size = np.array(images[0].shape[:2])
    if (crop > size).any():
        raise ValueError(f'crops of {tuple(crop)} do not fit into images of {tuple(size)}')
    corners = [(y, x) for y in (0, size[0] - crop[0]) for x in (0, size[1] - crop[1])]
    corners.append(tuple(((size - crop) / 2).astype(int)))
    crops = [[im[y : y + crop[0], x : x + crop[1]] for y, x in corners] for im in images]
    return np.array([c for five in crops for c in [*five, *(f[:, ::-1] for f in five)]], np.float32)


class Transformer:
    """Makes network inputs of images, and images of network inputs.

    inputs: {blob name: its shape (N, K, H, W)}. preprocess resizes to (H, W), then transposes, swaps
    channels, multiplies by the raw scale, subtracts the mean, multiplies by the input scale: what was set.
    """

    def __init__(self, inputs):
        self.inputs = inputs
        self.transpose = {}
        self.channel_swap = {}
        self.raw_scale = {}
        self.mean = {}
        self.input_scale = {}

    def _check_input(self, in_):
        if in_ not in self.inputs:
            raise ValueError(f'{in_} is not one of the net inputs: {list(self.inputs)}')

    def preprocess(self, in_, data):
        """A (K, H, W) float32 array for blob `in_` from an image (H', W', K)."""
        self._check_input(in_)
        result = data.astype(np.float32)
        in_dims = tuple(self.inputs[in_][2:])
        if result.shape[:2] != in_dims:
            result = resize_image(result, in_dims)
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[self.channel_swap[in_], :, :]
        if in_ in self.raw_scale:
            result = result * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            result = result - self.mean[in_]
        if in_ in self.input_scale:
            result = result * np.float32(self.input_scale[in_])
        return result

    def deprocess(self, in_, data):
        """The image (H, W, K) that preprocess would have made `data` of, less the resizing."""
        self._check_input(in_)
        result = data.copy().squeeze()
        if in_ in self.input_scale:
            result = result / self.input_scale[in_]
        if in_ in self.mean:
            result = result + self.mean[in_]
        if in_ in self.raw_scale:
            result = result / self.raw_scale[in_]
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def set_transpose(self, in_, order):
        """Order of the image's axes in the blob: (2, 0, 1) makes (K, H, W) of (H, W, K)."""
        self._check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise ValueError(f'{in_}: transpose order {tuple(order)} wants {len(self.inputs[in_]) - 1} axes')
        self.transpose[in_] = order

    def set_channel_swap(self, in_, order):
        """Order of channels: (2, 1, 0) makes BGR of RGB. Needs channels first, so a transpose with images."""
        self._check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise ValueError(f'{in_}: channel order {tuple(order)} wants {self.inputs[in_][1]} channels')
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_, scale):
        """Factor before the mean is subtracted: 255 for nets that were trained on bytes."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_, mean):
        """Mean to subtract, in the blob's scale and channel order: one number per channel, or an array (H, W)
        or (K, H, W), which is resized to the blob's height and width where it has others."""
        self._check_input(in_)
        mean = np.asarray(mean, np.float32)
        channels, *size = self.inputs[in_][1:]
        per_channel = mean.ndim == 1
        fits = mean.ndim == 2 or mean.shape == (channels,) or mean.ndim == 3 and len(mean) in (1, channels)
        if not fits:
            raise ValueError(f'{in_}: a mean of shape {mean.shape} does not fit {tuple(self.inputs[in_])}')
        mean = mean[:, None, None] if per_channel else mean.reshape(-1, *mean.shape[-2:])
        if not per_channel and mean.shape[1:] != tuple(size):
            mean = resize_image(mean.transpose(1, 2, 0), size).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_, scale):
        """Factor after the mean was subtracted."""
        self._check_input(in_)
        self.input_scale[in_] = scale

"""classification DEPLOY WEIGHTS MEAN.binaryproto LABELS.txt IMAGE...: the five likeliest classes of images.

Or: classification FOLDER IMAGE..., of a folder that holds deploy.prototxt, one .caffemodel, labels.txt and
mean.binaryproto, as a model downloaded from DIGITS does. Each image is stretched to the size of the net's input, and the
mean of each channel is subtracted. LABELS.txt has a line for each class.
"""

import argparse
import glob
import os
import sys

import cv2
import numpy as np

from .common import TEST
from .format.files import read_text
from .net import Net
from .types.sources.transformer import decode_image, read_file, read_mean

BEST = 5


class Model:
    """A net to classify with. mean: a .binaryproto, of any size, or None."""

    def __init__(self, deploy, weights, mean, labels):
        self.net = Net(deploy, TEST, weights=weights)
        self.labels = [line.strip() for line in read_text(labels, 'labels').splitlines() if line.strip()]
        self.input = self.net.blobs[self.net.inputs[0]]
        channels = self.input.shape[1]
        if channels not in (1, 3):
            raise ValueError(f'{deploy}: the input has {channels} channels; wanted are 3, or 1 for gray')
        self.mean = np.zeros(channels, np.float32) if mean is None else read_mean(mean).mean((1, 2))
        if len(self.mean) != channels:
            raise ValueError(f'{mean} has {len(self.mean)} channels, the input of {deploy} {channels}')

    def classify(self, path, best=BEST):
        """[(label, score)] of an image file, the highest first."""
        channels, height, width = self.input.shape[1:]
        image = decode_image(read_file(path), f'image {path}', channels == 3)
        image = cv2.resize(image.astype(np.float32), (width, height)).reshape(height, width, channels)
        self.input.reshape(1, channels, height, width)
        self.input.data[0] = (image - self.mean).transpose(2, 0, 1)
        scores = self.net.forward()[self.net.outputs[0]].reshape(-1)
        if len(scores) != len(self.labels):
            raise ValueError(f'the net has {len(scores)} classes, but there are {len(self.labels)} labels')
        return [(self.labels[k], float(scores[k])) for k in np.argsort(-scores, kind='stable')[:best]]


def in_folder(folder):
    """deploy, weights, mean (None: there is none) and labels of a folder."""
    weights = glob.glob(os.path.join(glob.escape(folder), '*.caffemodel'))
    if len(weights) != 1:
        raise ValueError(f'{folder} has {len(weights)} .caffemodel files; wanted is one')
    deploy, mean, labels = (
        os.path.join(folder, n) for n in ('deploy.prototxt', 'mean.binaryproto', 'labels.txt')
    )
    return deploy, weights[0], mean if os.path.exists(mean) else None, labels


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='classification', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('words', nargs='+', metavar='FOLDER|DEPLOY WEIGHTS MEAN LABELS, IMAGE')
    words = parser.parse_args(argv).words
    count = 1 if os.path.isdir(words[0]) else 4
    if len(words) <= count:
        parser.error('wanted is FOLDER IMAGE... or DEPLOY WEIGHTS MEAN LABELS IMAGE...')
    try:
        model = Model(*(in_folder(words[0]) if count == 1 else words[:4]))
        for path in words[count:]:
            print(f'---------- Prediction for {path} ----------')
            for label, score in model.classify(path):
                print(f'{score:.4f} - "{label}"')
    except (OSError, ValueError) as error:
        sys.exit(f'classification: {error}')


if __name__ == '__main__':
    main()

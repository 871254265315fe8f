#!/usr/bin/env python3
"""Scores of images by caffe.Classifier: classify.py INPUT OUTPUT.npy --model_def DEPLOY --pretrained_model WEIGHTS

INPUT: an image, a folder of them, or a .npy of images (N, H, W, K), RGB in [0, 1]. OUTPUT: scores (N, classes).
"""

import argparse
import glob
import os
import sys

import numpy as np

import caffe


def parser_of(doc):
    """The flags that classify.py and detect.py have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('input_file')
    parser.add_argument('output_file')
    parser.add_argument('--model_def', required=True, help='deploy prototxt')
    parser.add_argument('--pretrained_model', required=True, help='.caffemodel')
    parser.add_argument('--gpu', action='store_true', help='compute on GPU 0')
    parser.add_argument('--mean_file', default='', help='.npy or .binaryproto; none: nothing is subtracted')
    parser.add_argument('--input_scale', type=float, help='factor after the mean is subtracted')
    parser.add_argument('--raw_scale', type=float, default=255.0, help='factor before it (default 255)')
    parser.add_argument(
        '--channel_swap', default='2,1,0', help='order of channels (default 2,1,0: BGR of RGB)'
    )
    return parser


def numbers(text):
    return [int(word) for word in text.split(',')] if text else None


def settings(args):
    """The keywords of Classifier and Detector, on the device asked for."""
    if args.gpu:
        caffe.set_device(0)
        caffe.set_mode_gpu()
    return {
        'mean': read_mean(args.mean_file),
        'input_scale': args.input_scale,
        'raw_scale': args.raw_scale,
        'channel_swap': numbers(args.channel_swap),
    }


def read_mean(path):
    """An array (K, H, W) or (K,), or None."""
    if not path:
        return None
    if not path.endswith('.binaryproto'):
        return np.load(path)
    with open(path, 'rb') as f:
        mean = caffe.io.blobproto_to_array(caffe.proto.caffe_pb2.BlobProto.FromString(f.read()))
    return mean.reshape(mean.shape[-3:])


def images(path, suffix):
    """The images of an input. ValueError for a folder without any."""
    if path.endswith('.npy'):
        return list(np.load(path))
    files = (
        sorted(glob.glob(os.path.join(glob.escape(path), f'*.{suffix}'))) if os.path.isdir(path) else [path]
    )
    if not files:
        raise ValueError(f'{path} has no images *.{suffix}')
    return [caffe.io.load_image(file) for file in files]


def main(argv=None):
    parser = parser_of(__doc__)
    parser.add_argument('--center_only', action='store_true', help='the centre crop, not the mean of ten')
    parser.add_argument('--images_dim', default='256,256', help='height,width before cropping')
    parser.add_argument('--ext', default='jpg', help='of the images in a folder')
    args = parser.parse_args(argv)
    inputs = images(args.input_file, args.ext)
    net = caffe.Classifier(
        args.model_def, args.pretrained_model, image_dims=numbers(args.images_dim), **settings(args)
    )
    np.save(args.output_file, net.predict(inputs, not args.center_only))
    print(f'{len(inputs)} images: {args.output_file}')


if __name__ == '__main__':
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f'classify.py: {error}')

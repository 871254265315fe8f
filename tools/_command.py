"""What the tools share: the flags that most of them have, and what these set in motion.

Settings come in this order, the later over the earlier: the library's own, --cfg's file, the dataset's (`cfg`
in its YAML file), --set.
"""

import argparse
import glob
import logging
import os
import re
import sys
import time

import _init_paths  # noqa: F401
import numpy as np

log = logging.getLogger(__name__)

FLAGS = {
    'gpu': dict(
        dest='gpu',
        type=lambda text: parse_gpu(text),
        default=[0],
        metavar='N|cpu',
        help='the GPU to compute on, or cpu (default 0)',
    ),
    'def': dict(dest='prototxt', metavar='PROTOTXT', help='the net'),
    'net': dict(dest='weights', metavar='CAFFEMODEL', help='its weights'),
    'weights': dict(
        dest='weights', metavar='CAFFEMODEL', help='initial weights; none: as the net fills them'
    ),
    'imdb': dict(dest='imdb', metavar='NAME_SPLIT', help='the images, e.g. voc_2007_trainval'),
    'cfg': dict(dest='cfg_file', metavar='YAML', help="settings that differ from the library's"),
    'set': dict(
        dest='set_cfgs',
        nargs=argparse.REMAINDER,
        metavar='KEY VALUE',
        help='single settings, e.g. TRAIN.SCALES [400]; the last flag of a command',
    ),
}


def parser(description, *flags, required=(), **defaults):
    """An ArgumentParser with some of FLAGS, of which some are required; defaults stand for flags it lacks."""
    result = argparse.ArgumentParser(description=description)
    for flag in flags:
        add(result, flag, required=flag in required)
    result.set_defaults(**defaults)
    return result


def add(parser, flag, **more):
    """Adds one of FLAGS."""
    parser.add_argument(f'--{flag}', **FLAGS[flag], **more)


def parse_gpu(text):
    """'cpu' -> [], '0' -> [0], '0,1' -> [0, 1]."""
    if text == 'cpu':
        return []
    try:
        ids = [int(part) for part in text.split(',')]
    except ValueError:
        ids = [-1]
    if min(ids) < 0 or len(set(ids)) < len(ids):
        raise argparse.ArgumentTypeError(
            f"wanted cpu, a GPU's number, or different numbers as 0,1; got {text!r}"
        )
    return ids


# What a wrong file, setting or device raises: the message says it all
TOLD = (OSError, ValueError, KeyError, RuntimeError, FloatingPointError)


def run(main):
    """Ends the program with what main() returns; an error that a user can mend is one line and exit status 1.

    TRACEBACK=1 in the environment shows where it came from. Ctrl-C ends with status 130.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except TOLD as error:
        if os.environ.get('TRACEBACK'):
            raise
        sys.exit(f'{os.path.basename(sys.argv[0])}: {message(error)}')


def start_log():
    """Messages go to the terminal, each with its time."""
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')


def load_cfg(args):
    """Settles cfg from --cfg, the dataset of --imdb, and --set; then the device. A wrong value: ValueError."""
    from datasets.factory import describe
    from fast_rcnn.config import cfg, cfg_from_file, cfg_from_list

    try:
        if args.cfg_file:
            cfg_from_file(args.cfg_file)
        cfg_from_list(args.set_cfgs or [])  # already here: DATA_DIR says where datasets are registered
        dataset = dataset_of(args.imdb)
        if dataset:
            cfg.MODELS_DIR = os.path.join(cfg.ROOT_DIR, 'models', dataset)
            merge(describe(dataset))
        cfg_from_list(args.set_cfgs or [])
    except TypeError as e:
        raise ValueError(message(e)) from None
    use_device(args.gpu)
    return cfg


def message(error):
    """What an exception says, in one line; with its type where it says no more than a word."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text if ' ' in text else f'{type(error).__name__}: {text}'.rstrip(': ')


def dataset_of(imdb):
    """The dataset, as recipes and models/ call it, that an imdb belongs to; None where it has no name."""
    from datasets.factory import registered

    if re.match(r'voc_\d{4}_', imdb):
        return 'pascal_voc'
    if re.match(r'imagenet_\d{4}_', imdb):
        return 'imagenet'
    return max((name for name in registered() if imdb.startswith(f'{name}_')), key=len, default=None)


def merge(description):
    """Sets what a dataset's YAML file says under `cfg`."""
    from fast_rcnn.config import cfg_from_list

    try:
        cfg_from_list([word for pair in _pairs(description.cfg) for word in pair])
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f'{description.path}: cfg: {message(e)}') from None


def _pairs(values, prefix=''):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _pairs(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def use_device(gpu):
    """Engine and library compute on the first of `gpu`, or on the CPU where there is none."""
    import caffe
    from fast_rcnn.config import cfg

    if gpu:
        caffe.set_device(gpu[0])
        caffe.set_mode_gpu()
        cfg.GPU_ID = gpu[0]
    else:
        caffe.set_mode_cpu()
        cfg.USE_GPU_NMS = False


def one_gpu(gpu, tool):
    """Refuses several GPUs where one worker does all the work."""
    if len(gpu) > 1:
        sys.exit(
            f'{tool} computes with one worker; got --gpu {",".join(map(str, gpu))}. Give one number, or cpu.'
        )


def seed(number):
    """Seeds numpy's generator (what is drawn) and the engine's (what fillers and Dropout draw)."""
    import caffe

    np.random.seed(number)
    caffe.set_random_seed(number)


def require(path, flag):
    """`path`, which must be there."""
    if not os.path.exists(path):
        sys.exit(f'{flag} {path}: no such file')
    return path


def get_imdb(name):
    """The imdb of that name."""
    from datasets import factory

    return factory.get_imdb(name)


def load_net(args):
    """The net of --def and --net for testing, named after its weights' file."""
    import caffe

    net = caffe.Net(require(args.prototxt, '--def'), require(args.weights, '--net'), caffe.TEST)
    net.name = os.path.splitext(os.path.basename(args.weights))[0]
    return net


def wait_for(path, seconds=30):
    """Returns once `path` is there, looking every so many seconds."""
    while not os.path.exists(path):
        log.info('waiting for %s', path)
        time.sleep(seconds)


def proposal_file(output_dir, net_name):
    """Where the proposals of a net for an imdb with that output folder lie."""
    return os.path.join(output_dir, f'{net_name}_rpn_proposals.npz')


def newest_proposals(output_dir):
    """The proposal file last written for an imdb with that output folder."""
    found = sorted(glob.glob(proposal_file(glob.escape(output_dir), '*')), key=os.path.getmtime)
    if not found:
        sys.exit(
            f'{output_dir} holds no proposals (*_rpn_proposals.npz): run tools/rpn_generate.py for this '
            f'imdb with the same --cfg, or give --rpn_file'
        )
    log.info('proposals: %s%s', found[-1], f' (the newest of {len(found)})' if len(found) > 1 else '')
    return found[-1]

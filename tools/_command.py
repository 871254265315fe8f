"""What the tools share: the flags that most of them have, what these set in motion, and how a tool ends."""

import argparse
import atexit
import errno
import logging
import os
import shutil
import sys
import tempfile
import time

import _init_paths  # noqa: F401
from utils.places import command

log = logging.getLogger(__name__)


class Devices(argparse.Action):
    """Joins the lists that parse_gpu gives for several words."""

    def __call__(self, parser, namespace, values, option_string=None):
        devices = [device for value in values for device in value]
        if len(set(devices)) < len(devices) and set(devices) != {'cpu'}:
            parser.error(f'argument {"/".join(self.option_strings) or self.metavar}: wanted different GPUs')
        setattr(namespace, self.dest, devices)


FLAGS = {
    'gpu': dict(
        type=lambda text: parse_gpu(text),
        action=Devices,
        nargs='+',
        default=[0],
        metavar='N|all|cpu|cpu:N',
        help='the GPU to compute on (default 0), or several, as 0,1 or 0 1 or all: a process on each; or cpu, or '
        'cpu:N, so many processes on the CPU. Under torchrun: those of a machine',
    ),
    'def': dict(dest='prototxt', metavar='PROTOTXT', help='the net'),
    'net': dict(
        dest='weights',
        metavar='CAFFEMODEL',
        help='its weights; without --def also a .frcnn, or a .caffemodel with its .classes.json beside it: these say which '
        'net and settings it has',
    ),
    'load': dict(
        dest='weights',
        metavar='MODEL',
        help='a .frcnn of tools/pack.py, or a .caffemodel: the .classes.json beside it says which classes, settings and '
        'prototxt it has',
    ),
    'weights': dict(
        dest='weights',
        metavar='CAFFEMODEL',
        help='initial weights, a .frcnn too; none: as the net fills them',
    ),
    'imdb': dict(dest='imdb', metavar='NAME_SPLIT', help='the images, e.g. voc_2007_trainval'),
    'cfg': dict(
        dest='cfg_file',
        metavar='YAML',
        help="settings that differ from the library's (default: those that suit the net)",
    ),
    'max_iters': dict(
        dest='max_iters', type=int, metavar='N', help='iterations of training, or of each training stage'
    ),
    'precision': dict(
        metavar='float32|bf16|fp16',
        help='what nets compute in: PRECISION, in short (default float32; 16 bits: faster where the device has them)',
    ),
    'verbose': dict(action='store_true', help='log each loss and the learning rate'),
    'wait': dict(
        nargs='?',
        type=lambda text: text.lower() not in ('', '0', 'false', 'no'),
        const=True,
        default=False,
        metavar='BOOL',
        help="wait until the weights' file is there",
    ),
    'set': dict(
        dest='set_cfgs',
        nargs=argparse.REMAINDER,
        metavar='KEY=VALUE',
        help='single settings, KEY=VALUE or KEY VALUE, e.g. TRAIN.SCALES=[400] TEST.NMS 0.4; the last flag of a command',
    ),
}


def parser(description, *flags, required=(), **defaults):
    """An ArgumentParser with some of FLAGS, of which some are required; defaults stand for flags it lacks."""
    result = argparse.ArgumentParser(prog=command(), description=description)
    for flag in flags:
        add(result, flag, required=flag in required)
    result.set_defaults(**defaults)
    return result


def add(parser, flag, **more):
    """Adds one of FLAGS."""
    names = [f'--{flag}'] + ['--iters'] * (flag == 'max_iters')
    parser.add_argument(*names, **{**FLAGS[flag], **more})


def parse_gpu(text):
    """The devices that a word names: see caffe.launch.parse_devices."""
    from caffe.launch import parse_devices

    try:
        return parse_devices(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# What a wrong file, setting or device raises: the message says it all
TOLD = (OSError, ValueError, KeyError, RuntimeError, FloatingPointError, ImportError)


def run(main):
    """Ends the program with what main() returns; an error that a user can mend is one line and exit status 1.

    TRACEBACK=1 in the environment shows where it came from. Ctrl-C ends with status 130, or the one that the
    exception has. In a world of workers only the error that came first is told.
    """
    try:
        status = main()
        if 'caffe.watch' in sys.modules:
            sys.modules['caffe.watch'].done()
        sys.exit(status)
    except KeyboardInterrupt as stop:
        if told(stop):
            print(str(stop) or 'interrupted', file=sys.stderr)
        sys.exit(getattr(stop, 'status', 130))
    except SystemExit as stop:
        sys.exit(stop.code if not isinstance(stop.code, str) or told(stop) else 1)
    except TOLD as error:
        text = told(error)
        if os.environ.get('TRACEBACK'):
            raise
        sys.exit(f'{command()}: {text}' if text else 1)
    except Exception as error:  # a fault of the program: the other ranks hear of it all the same
        told(error)
        raise


def told(error):
    """What there is to say of the error that ends this process; nothing where another one says it."""
    watch = sys.modules.get('caffe.watch')
    first = watch and watch.failed(error, getattr(error, 'stage', ''), message(error))
    return watch.told(first) if first else message(error)


def start_log(rank=0):
    """Messages go to the terminal, each with its time; of ranks beyond 0 errors alone."""
    logging.basicConfig(
        level=logging.ERROR if rank else logging.INFO,
        format=f'%(asctime)s {f"rank {rank}: " if rank else ""}%(message)s',
        datefmt='%H:%M:%S',
    )


def begin(devices):
    """Starts the log. With several devices the program runs once on each, in a world of workers, and this process
    ends with them."""
    from caffe import launch, watch, world

    start_log(world.rank())
    launch.my_device(devices)
    if len(devices) > 1 and not world.inside():
        try:
            launch.launch([sys.executable, *sys.argv], devices)
        except launch.LaunchError as error:
            sys.exit(f'{command()}: {error}')  # with the lines of its traceback
        sys.exit()
    watch.begin()


def single(args):
    """The single settings of a command, key, value, key, value ...: those of --set, and --precision."""
    precision = ['PRECISION', args.precision] if getattr(args, 'precision', None) else []
    return [*settings(args.set_cfgs or []), *precision]


def settings(words):
    """The words behind --set: KEY=VALUE, KEY VALUE, or --set again -> key, value, key, value ... ValueError: a key without a
    value."""
    found, words = [], iter(words)
    for word in words:
        if word == '--set':
            continue
        key, given, value = word.partition('=')
        if not given:
            value = next(words, None)
        if value is None or not key:
            raise ValueError(f'--set wants KEY=VALUE or KEY VALUE; {word} has no {"value" if key else "key"}')
        found += [key, value]
    return found


def load_cfg(args, world='', known=(), keep=()):
    """Settles cfg from --cfg, by default what suits the net of --def or --solver; the settings `known`, key, value ..., or those
    of the model of --net (open_model), less those named in `keep`; the dataset of --imdb, --set and --precision; then the
    device. world: joins the one of that name, where there are several workers."""
    from caffe import parallel
    from fast_rcnn.config import cfg, cfg_from_file, cfg_from_list
    from pipeline.settings import cfg_files_of, settle, use_device

    opened = open_model(args)
    if opened:
        known = words_of(opened, args.prototxt, keep)
    net = net_file(args)
    for path in cfg_files_of(net, args.imdb) if net and not args.cfg_file else ():
        cfg_from_file(path)
    cfg_from_list(known)
    settle(args.imdb, [args.cfg_file] if args.cfg_file else (), single(args))
    use_device(args.gpu)
    if world:
        parallel.join(world)
    return cfg


def open_model(args):
    """What the model of --load or --net brings with it -> its Sidecar; None where --def is given, or it brings nothing. Of a
    .frcnn: its files, in a folder that is there until the process ends, in its place and that of --def; of a .caffemodel the
    net that its sidecar names. A .frcnn of initial weights stays as it is: the engine reads it."""
    from fast_rcnn.packs import is_pack, unpack
    from fast_rcnn.sidecar import read_sidecar, sidecar_path

    given = getattr(args, 'weights', None)
    if not given or not hasattr(args, 'prototxt'):
        return None
    if is_pack(given):
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        args.pack, args.weights = given, unpack(given, folder)
    elif args.prototxt or not os.path.exists(sidecar_path(given)):
        return None
    known = read_sidecar(args.weights)
    if os.path.isfile(known.prototxt):  # else what wants one says so, and not of a --def that nobody gave
        args.prototxt = args.prototxt or known.prototxt
    return known


def words_of(known, prototxt=None, keep=()):
    """The settings of a Sidecar less those of `keep`, and whether its net proposes: key, value, key, value ..."""
    from fast_rcnn.sidecar import proposes

    found = {name: value for name, value in known.cfg.items() if name not in keep}
    if prototxt and os.path.isfile(prototxt):
        found['TEST.HAS_RPN'] = proposes(prototxt)
    return [word for setting in found.items() for word in setting]


def load_known(args, world='', keep=()):
    """As load_cfg, with what a model's sidecar says: its settings, over the files', and the net where --def is not given ->
    the Sidecar; None where the model of --load or --net has none, or is none."""
    from fast_rcnn.sidecar import prototxt_path, read_sidecar, sidecar_path

    known, beside = open_model(args), prototxt_path(args.weights)
    if known is None and os.path.exists(sidecar_path(args.weights)):
        known = read_sidecar(args.weights)
    args.prototxt = args.prototxt or (beside if os.path.isfile(beside) else None)
    load_cfg(args, world, words_of(known, args.prototxt, keep) if known else ())
    return known


def load_classes(args, world=''):
    """As load_known -> what knows the classes: --imdb, else the sidecar. Ends the program where there is neither, or no net."""
    from fast_rcnn.sidecar import prototxt_path

    require(args.weights, '--load')
    known = load_known(args, world)
    if not args.prototxt:
        sys.exit(
            f'--load {args.weights}: what is its net? {prototxt_path(args.weights)} is not there; give --def'
        )
    return get_imdb(args.imdb) if args.imdb else require_known(args, known)


def require_known(args, known):
    """`known`, a model's Sidecar, which must be there."""
    from fast_rcnn.sidecar import sidecar_path

    if known is None:
        sys.exit(f'what are the classes? {sidecar_path(args.weights)} is not there; give --imdb')
    return known


def net_file(args):
    """The file of --def, or the train net of --solver; None where there is none."""
    from caffe.format.prototxt import read_solver

    path = getattr(args, 'prototxt', None)
    if os.path.isfile(getattr(args, 'solver', None) or ''):
        solver = read_solver(args.solver)
        path = solver.train_net or solver.net
    return path if path and os.path.isfile(path) else None


NO_FOLDER = 'is a file, not a folder'
WHY = {
    errno.ENOENT: 'no such file or folder',
    errno.EISDIR: 'is a folder, not a file',
    errno.EEXIST: NO_FOLDER,
    errno.ENOTDIR: NO_FOLDER,
}


def nearest(path):
    """`path`, or the nearest of the folders around it that is there."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or os.curdir


def message(error):
    """What an exception says, in one line; with its type where it says no more than a word."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        why = WHY.get(error.errno, error.strerror)
        return f'{nearest(error.filename) if why == NO_FOLDER else error.filename}: {why}'
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text if ' ' in text else f'{type(error).__name__}: {text}'.rstrip(': ')


def say(text):
    """Prints a result, once in a world of workers."""
    from caffe import world

    if world.rank() == 0:
        print(text)


def one_device(devices, tool):
    """Refuses several devices where one worker does all the work."""
    if len(devices) > 1:
        raise ValueError(f'{tool} computes on one device; got {", ".join(map(str, devices))}')


def seed(number):
    """Seeds all that is drawn."""
    from pipeline.settings import seed

    seed(number)


def require(path, flag):
    """`path`, which must be a file."""
    if not os.path.isfile(path):
        sys.exit(f'{flag} {path}: {WHY[errno.EISDIR] if os.path.isdir(path) else "no such file"}')
    return path


def require_folder(path, flag):
    """`path`, which must be a folder or what may become one."""
    if not os.path.isdir(nearest(path)):
        sys.exit(f'{flag} {path}: {nearest(path)} {NO_FOLDER}')
    return path


def get_imdb(name):
    """The imdb of that name."""
    from datasets import factory

    return factory.get_imdb(name)


def set_proposals(data, method, rpn_file=None):
    """Where an imdb's boxes come from; method rpn: a file, by default the newest that rpn_generate.py wrote for it."""
    from fast_rcnn.config import get_output_dir
    from utils.proposals import newest_proposals

    data.set_proposal_method(method)
    if method == 'rpn':
        data.config['rpn_file'] = rpn_file or newest_proposals(get_output_dir(data))


def load_net(args):
    """The net of --def and --net for testing, named after its weights' file."""
    if not args.prototxt:
        sys.exit(f'--def is missing: the net of {args.weights}')
    return load_named(args.prototxt, args.weights)


def load_named(prototxt, weights, flags=('--def', '--net')):
    """As load_net, of two files, which these flags gave."""
    import caffe

    net = caffe.Net(require(prototxt, flags[0]), require(weights, flags[1]), caffe.TEST)
    net.name = os.path.splitext(os.path.basename(weights))[0]
    return net


def another_net(words):
    """As load_named, of --also: a prototxt and a .caffemodel, or a model that has its net with it."""
    if len(words) > 2:
        raise ValueError(f'--also {" ".join(words)}: wanted a prototxt and a .caffemodel, or a model')
    other = argparse.Namespace(
        prototxt=words[0] if len(words) == 2 else None, weights=require(words[-1], '--also')
    )
    open_model(other)
    if not other.prototxt:
        raise ValueError(f'--also {words[0]}: what is its net? Give its prototxt before it')
    return load_named(other.prototxt, other.weights, ('--also', '--also'))


def proposing_net(args, data):
    """As load_net, of one that makes its own proposals, for the classes of `data`."""
    from fast_rcnn.config import cfg
    from fast_rcnn.test import check_classes

    cfg.TEST.HAS_RPN = True
    net = load_net(args)
    check_classes(net, data)
    if 'im_info' not in net.blobs:
        sys.exit(f'{args.prototxt}: this net wants proposals; wanted one that makes its own')
    return net


def wait_for(path, seconds=30):
    """Returns once `path` is there, looking every so many seconds."""
    while not os.path.exists(path):
        log.info('waiting for %s', path)
        time.sleep(seconds)

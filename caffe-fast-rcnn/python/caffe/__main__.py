"""The `caffe` command, also `python -m caffe`: trains, tests and times nets, and brings old files up to date.

compute_image_mean and convert_imageset have flags of their own; the others have Caffe's, with one dash or two, as
`-flag value` or `-flag=value`.
"""

import argparse
import contextlib
import importlib
import signal
import sys

import torch

import caffe
from caffe import average_precision, common, launch, limits, parallel, timing, watch, world
from caffe.format.prototxt import read_solver, upgrade_net_text, upgrade_solver_text
from caffe.format.weights import upgrade_net_binary
from caffe.common import logger
from caffe.net import Net
from caffe.proto import caffe_pb2

FLAGS = {
    'solver': dict(help='solver prototxt'),
    'model': dict(help='model prototxt'),
    'weights': dict(help='.caffemodel files to start from, separated by commas'),
    'snapshot': dict(help='.solverstate to go on from'),
    'gpu': dict(
        default='', help="GPU numbers separated by commas, 'all', or cpu:N for N processes; default: the CPU"
    ),
    'precision': dict(default='float32', choices=common.PRECISIONS, help='what the net computes in'),
    'iterations': dict(type=int, default=50, help='batches to run'),
    'level': dict(type=int, default=0, help='network level'),
    'stage': dict(default='', help='network stages, separated by commas'),
    'ap_version': dict(
        default='Integral', choices=average_precision.VERSIONS, help='of mean average precision (test)'
    ),
    'phase': dict(default='', choices=['', 'TRAIN', 'TEST'], help="the network's phase (time)"),
    'sigint_effect': dict(
        default='stop', choices=['stop', 'snapshot', 'none'], help='what Ctrl-C does to training'
    ),
    'sighup_effect': dict(
        default='snapshot', choices=['stop', 'snapshot', 'none'], help='what SIGHUP does to training'
    ),
}

EFFECTS = {signal.SIGINT: 'sigint_effect'}  # signal -> the flag that says what it does to training
if hasattr(signal, 'SIGHUP'):
    EFFECTS[signal.SIGHUP] = 'sighup_effect'


def devices(args):
    """Those of -gpu: numbers, or ['cpu'] without the flag."""
    try:
        return launch.parse_devices(args.gpu or 'cpu')
    except ValueError as error:
        raise SystemExit(f'caffe {args.command}: -gpu: {error}') from None


def use_device(device, precision):
    """Compute on 'cpu', or on the GPU of this number."""
    if device == 'cpu':
        caffe.set_mode_cpu()
    else:
        caffe.set_device(device)
        caffe.set_mode_gpu()
    caffe.set_precision(precision)


def stages(args):
    return [s for s in args.stage.split(',') if s]


def require(args, *names):
    for name in names:
        if not getattr(args, name):
            raise SystemExit(f'caffe {args.command}: -{name} is needed: {FLAGS[name]["help"]}')


def train(args):
    """Train, or go on with -snapshot, or fine-tune from -weights."""
    require(args, 'solver')
    if args.snapshot and args.weights:
        raise SystemExit(
            'caffe train: -snapshot goes on with a training, -weights starts one from weights; give one of them'
        )
    param = read_solver(args.solver)
    param.train_state.level = args.level
    param.train_state.stage.extend(stages(args))
    wanted = devices(args)
    if not args.gpu and param.solver_mode == caffe_pb2.SolverParameter.GPU and torch.cuda.is_available():
        wanted = [param.device_id]
    device = launch.my_device(wanted)
    if len(wanted) > 1 and not world.inside():
        try:
            launch.launch([sys.executable, *sys.orig_argv[1:]], wanted, served=EFFECTS)
        except launch.LaunchError as error:
            raise SystemExit(f'caffe train: {error}') from None
        except launch.Interrupted as stop:
            raise SystemExit(stop.status) from None
    else:
        with watched():
            train_here(param, device, args)


@contextlib.contextmanager
def watched():
    """Within, this process is watched if it is one of several; of their errors only the first is told."""
    watch.begin()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        first = watch.failed(error)
        if first is None:
            raise
        raise SystemExit(watch.told(first) or 1) from error
    watch.done()


def train_here(param, device, args):
    """Train on one device: alone, or as one of several ranks."""
    use_device(device, args.precision)
    parallel.join('train')
    solver = caffe.get_solver(param)
    for path in filter(None, (args.weights or '').split(',')):
        for net in [solver.net, *solver.test_nets]:
            net.copy_from(path)
    nccl = caffe.NCCL(solver)
    nccl.bcast()
    solver.add_callback(nccl)
    solver.net.after_backward(nccl)
    solver.add_callback(lambda: watch.beat('training', solver.iter), lambda: None)
    solver.snapshot = watch.busy('snapshot')(solver.snapshot)
    solver.test_all = watch.busy('test')(solver.test_all)
    with Signals(args) as asked:
        solver.requested_action = asked.take
        solver.solve(args.snapshot)


class Signals:
    """While entered, Ctrl-C and SIGHUP ask for their effect instead of ending the program."""

    def __init__(self, args):
        self.effects = {number: getattr(args, effect) for number, effect in EFFECTS.items()}
        self.asked = None

    def __enter__(self):
        self.before = {s: signal.signal(s, self.handle) for s in self.effects}
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number, frame):
        self.asked = self.effects[number]

    def take(self):
        asked, self.asked = self.asked, None
        return asked


def test(args):
    """Score a model: the mean of each output over -iterations batches, mean average precision of DetectionEvaluate's."""
    require(args, 'model', 'weights')
    use_device(devices(args)[0], args.precision)
    net = Net(args.model, caffe.TEST, level=args.level, stages=stages(args), weights=args.weights)
    tallies = average_precision.tallies(net, args.ap_version)
    loss, sums = 0.0, {}
    for i in range(args.iterations):
        loss += float(net.run_forward())
        for name, tally in tallies.items():
            tally.add(net.blobs[name].data)
        for name in [n for n in net.outputs if n not in tallies]:
            value = net.blobs[name].tensor.flatten().double().cpu()
            sums[name] = sums.get(name, 0) + value
            for v in value.tolist():
                logger.info('Batch %d, %s = %g', i, name, v)
    logger.info('Loss: %g', loss / args.iterations)
    for name, total in sums.items():
        weight = net.blob_loss_weights.get(name, 0)
        for v in (total / args.iterations).tolist():
            logger.info('%s = %g%s', name, v, f' (* {weight:g} = {weight * v:g} loss)' if weight else '')
    for name, tally in tallies.items():
        by_class = tally.by_class()
        average_precision.log(by_class)
        logger.info('%s = %g', name, average_precision.mean(by_class))


def time_model(args):
    """Milliseconds of each layer and chain, and of whole passes, over -iterations runs; beside the machine's limits."""
    require(args, 'model')
    use_device(devices(args)[0], args.precision)
    net = Net(
        args.model, caffe.TEST if args.phase == 'TEST' else caffe.TRAIN, level=args.level, stages=stages(args)
    )
    measured = limits.limits()
    rows, passes = timing.time_net(net, args.iterations, measured)
    print(timing.table(rows), timing.table(timing.by_kind(rows)), sep='\n\n')
    print(
        'limit: the share of the time that would do at {conv:.0f} GFLOP/s in convolutions, {matmul:.0f} in products of '
        'matrices, {copy:.1f} GB/s of memory'.format(**measured)
    )
    # As Caffe says it, where the first layer of a chain has the time of all
    logger.info('Average time per layer:')
    for row in rows:
        for i, name in enumerate(row.names):
            for way, ms in row.ms.items():
                logger.info('%10s\t%s: %.5g ms.', name, way, 0 if i else ms)
    for way, ms in passes.items():
        logger.info('Average %s pass: %.5g ms.', way.capitalize(), ms)
    total = sum(passes.values())
    logger.info('Average Forward-Backward: %.5g ms.', total)
    logger.info('Total Time: %.5g ms.', total * args.iterations)


def device_query(args):
    """What torch tells of each GPU asked for (default: all)."""
    every = args.gpu in ('', 'all')
    numbers = range(torch.cuda.device_count()) if every else devices(args)
    if not numbers:
        logger.info('torch %s sees no CUDA device', torch.__version__)
    for number in numbers:
        caffe.set_device(number)
        p = torch.cuda.get_device_properties(number)
        logger.info(
            'Device id: %d, name: %s, compute capability: %d.%d, total memory: %.1f GiB, multiprocessors: %d',
            number,
            p.name,
            p.major,
            p.minor,
            p.total_memory / 2**30,
            p.multi_processor_count,
        )


COMMANDS = {'train': train, 'test': test, 'time': time_model, 'device_query': device_query}
UPGRADES = {
    'upgrade_net_text': upgrade_net_text,
    'upgrade_net_binary': upgrade_net_binary,
    'upgrade_solver_proto_text': upgrade_solver_text,
}


PROGRAMS = 'compute_image_mean', 'convert_imageset'  # modules of this package


def parser():
    top = argparse.ArgumentParser(prog='caffe', allow_abbrev=False, description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest='command', required=True, metavar='command')
    for name, function in COMMANDS.items():
        sub = commands.add_parser(name, allow_abbrev=False, help=function.__doc__)
        for flag, options in FLAGS.items():
            sub.add_argument(f'-{flag}', f'--{flag}', **options)
    for name, function in UPGRADES.items():
        sub = commands.add_parser(name, help='rewrite an old file in the present form: SOURCE TARGET')
        sub.add_argument('source')
        sub.add_argument('target')
    for name in PROGRAMS:
        commands.add_parser(name, help=f'see caffe {name} --help')
    return top


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in PROGRAMS:
        return importlib.import_module(f'caffe.{argv[0]}').main(argv[1:])
    flags_first = [a for a in argv if a in COMMANDS]  # gflags takes flags before the command too
    if flags_first and argv[0] != flags_first[0]:
        argv = [flags_first[0]] + [a for i, a in enumerate(argv) if i != argv.index(flags_first[0])]
    args = parser().parse_args(argv)
    if args.command in UPGRADES:
        UPGRADES[args.command](args.source, args.target)
    else:
        COMMANDS[args.command](args)


if __name__ == '__main__':
    main()

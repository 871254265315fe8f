#!/usr/bin/env python3
"""Train Faster R-CNN by alternating optimization: an RPN, its proposals, Fast R-CNN, and all three again.

The stages are the four steps of arXiv 1506.01497, section 3.2; in the second round the shared layers stay as
they are. Each runs in a process of its own. Started again, the command goes on where it stopped, and redoes a
stage whose settings changed.
"""

import collections
import hashlib
import os
import shutil
import sys

import _command
import _stages
from _stages import File


def train_rpn(job):
    """Trains a region proposal network; returns its weights' file."""
    return _train(job, _begin(job))


def generate_proposals(job):
    """Writes an RPN's proposals for the training images; returns their file."""
    from caffe import TEST, Net
    from rpn.generate import scored_proposals
    from utils.proposals import save_proposals

    data = _begin(job)
    boxes, scores = scored_proposals(Net(job['net'], job['weights'], TEST), data)
    path = _command.proposal_file(job['output_dir'], job['name'])
    save_proposals(path, boxes, scores)
    return path


def train_fast_rcnn(job):
    """Trains Fast R-CNN on an RPN's proposals; returns its weights' file."""
    data = _begin(job)
    data.config['rpn_file'] = job['proposals']
    return _train(job, data)


INITIAL = '--weights'
# A row's weights and proposals are the result of the stage they name; net is the file of the solver, or of
# the net that proposes
Stage = collections.namedtuple('Stage', 'name function net weights proposals')
STAGES = (
    Stage('stage1_rpn', train_rpn, 'stage1_rpn_solver60k80k.pt', INITIAL, None),
    Stage('stage1_proposals', generate_proposals, 'rpn_test.pt', 'stage1_rpn', None),
    Stage(
        'stage1_fast_rcnn', train_fast_rcnn, 'stage1_fast_rcnn_solver30k40k.pt', INITIAL, 'stage1_proposals'
    ),
    Stage('stage2_rpn', train_rpn, 'stage2_rpn_solver60k80k.pt', 'stage1_fast_rcnn', None),
    Stage('stage2_proposals', generate_proposals, 'rpn_test.pt', 'stage2_rpn', None),
    Stage(
        'stage2_fast_rcnn',
        train_fast_rcnn,
        'stage2_fast_rcnn_solver30k40k.pt',
        'stage2_rpn',
        'stage2_proposals',
    ),
)
SETTINGS = {
    train_rpn: {
        'TRAIN.HAS_RPN': True,
        'TRAIN.BBOX_REG': False,
        'TRAIN.PROPOSAL_METHOD': 'gt',
        'TRAIN.IMS_PER_BATCH': 1,
    },
    generate_proposals: {'TEST.RPN_PRE_NMS_TOP_N': -1, 'TEST.RPN_POST_NMS_TOP_N': 2000},
    train_fast_rcnn: {'TRAIN.HAS_RPN': False, 'TRAIN.PROPOSAL_METHOD': 'rpn'},
}
# What no stage's result depends on
IGNORE = ('gpu', 'output_dir') + tuple(
    f'cfg.{key}'
    for key in (
        'ROOT_DIR',
        'DATA_DIR',
        'MODELS_DIR',
        'MATLAB',
        'EXP_DIR',
        'GPU_ID',
        'USE_GPU_NMS',
        'TRAIN.USE_PREFETCH',
        'TRAIN.SNAPSHOT_ITERS',
    )
)


def main():
    args = parse_args()
    _command.start_log()
    _command.one_gpu(args.gpu, 'train_faster_rcnn_alt_opt.py')
    _command.load_cfg(args)
    from fast_rcnn.config import get_output_dir

    data = _command.get_imdb(args.imdb)
    output_dir = get_output_dir(data)
    manifest = _stages.Manifest(os.path.join(output_dir, f'{args.net_name}_alt_opt.json'), IGNORE)
    results = {None: None, INITIAL: args.weights and _command.require(args.weights, '--weights')}
    iterations = iter(args.max_iters * (4 // len(args.max_iters)))
    images = images_digest(data)
    try:
        for stage in STAGES[: 3 * args.stages]:
            job = make_job(stage, args, results, iterations, data.classes, images, output_dir)
            results[stage.name] = manifest.run(stage.name, stage.function, job)
    except _stages.StageError as e:
        sys.exit(str(e))
    report(args, results, output_dir)


def parse_args(argv=None):
    parser = _command.parser(__doc__.splitlines()[0], 'gpu', 'weights', 'cfg', 'imdb', required=('imdb',))
    parser.add_argument('--net_name', required=True, metavar='NET', help='their folder, e.g. ResNet-101')
    parser.add_argument(
        '--max_iters',
        type=int,
        nargs='+',
        default=[80000, 40000, 80000, 40000],
        metavar='N',
        help='iterations of RPN and Fast R-CNN, both rounds; or one number for all',
    )
    parser.add_argument(
        '--stages',
        type=int,
        choices=(1, 2),
        default=2,
        help='1 ends after the first RPN and Fast R-CNN: two nets, as in the ImageNet recipe',
    )
    _command.add(parser, 'set')
    args = parser.parse_args(argv)
    if len(args.max_iters) not in (1, 2 * args.stages, 4) or min(args.max_iters) < 1:
        parser.error(f'--max_iters wants one number or {2 * args.stages}, at least 1; got {args.max_iters}')
    return args


def images_digest(data):
    """A digest of an imdb's images and their objects, as its files have them now."""
    data.set_proposal_method('gt')
    digest = hashlib.sha256()
    for name, entry in zip(data.image_index, data.roidb):
        digest.update(f'{name}\n'.encode() + entry['boxes'].tobytes() + entry['gt_classes'].tobytes())
    return digest.hexdigest()


def make_job(stage, args, results, iterations, classes, images, output_dir):
    """All that a stage is to know, and that decides whether it must be redone."""
    weights, proposals = results[stage.weights], results[stage.proposals]
    job = {
        'name': f'{args.net_name}_{stage.name.split("_")[0]}',
        'cfg': stage_cfg(stage),
        'gpu': args.gpu,
        'output_dir': output_dir,
        'net': File(net_file(args.net_name, stage.net)),
        'weights': weights and File(weights),
        'proposals': proposals and File(proposals),
        'imdb': args.imdb,
        'classes': list(classes),
        'images': images,
    }
    if stage.function is not generate_proposals:
        from caffe.format.prototxt import read_solver

        solver = read_solver(job['net'])
        train_net = _command.require(solver.train_net or solver.net, f'{job["net"]}: train_net')
        job.update(train_net=File(train_net), max_iters=next(iterations))
    return job


def stage_cfg(stage):
    """A stage's settings, less the section it does not read: a training stage TEST, a proposing one TRAIN.

    TRAIN.REAL_BATCH_SIZE is Fast R-CNN's; the RPN takes half of that, as in arXiv 1512.03385, appendix A
    (8 and 16).
    """
    from fast_rcnn.config import cfg, cfg_values, overrides

    settings = {**SETTINGS[stage.function], 'TRAIN.SNAPSHOT_INFIX': stage.name.split('_')[0]}
    if stage.function is train_rpn and cfg.TRAIN.REAL_BATCH_SIZE:
        settings['TRAIN.REAL_BATCH_SIZE'] = max(cfg.TRAIN.REAL_BATCH_SIZE // 2, 1)
    unread = 'TRAIN' if stage.function is generate_proposals else 'TEST'
    with overrides(settings):
        return {key: value for key, value in cfg_values().items() if key != unread}


def net_file(net_name, name):
    """A file of the nets that --net_name names."""
    from fast_rcnn.config import cfg

    path = os.path.join(cfg.MODELS_DIR, net_name, 'faster_rcnn_alt_opt', name)
    if not os.path.exists(path):
        known = sorted(os.listdir(cfg.MODELS_DIR)) if os.path.isdir(cfg.MODELS_DIR) else []
        sys.exit(
            f'{path}: no such file. Nets in {cfg.MODELS_DIR}: {", ".join(known) or "none"}; '
            f'models/generate.py writes those of a dataset'
        )
    return path


def _begin(job):
    """In the child: settings, device, seeds; returns the imdb."""
    from datasets.factory import get_imdb
    from fast_rcnn.config import cfg, cfg_restore

    cfg_restore(job['cfg'])
    _command.use_device(job['gpu'])
    _command.seed(cfg.RNG_SEED)
    data = get_imdb(job['imdb'])
    data.set_proposal_method(cfg.TRAIN.PROPOSAL_METHOD)
    return data


def _train(job, data):
    """Trains to the end; only the last snapshot stays."""
    from fast_rcnn.train import get_training_roidb, train_net

    *earlier, last = train_net(
        job['net'],
        get_training_roidb(data),
        job['output_dir'],
        pretrained_model=job['weights'],
        max_iters=job['max_iters'],
    )
    for path in earlier:
        os.remove(path)
    return last


def report(args, results, output_dir):
    """Copies what was trained to plain names and says where; experiments/scripts read these lines."""
    names = (
        {'stage2_fast_rcnn': 'faster_rcnn'}
        if args.stages == 2
        else {'stage1_rpn': 'rpn', 'stage1_fast_rcnn': 'fast_rcnn'}
    )
    for stage, name in names.items():
        path = os.path.join(output_dir, f'{args.net_name}_{name}_final.caffemodel')
        shutil.copyfile(results[stage], f'{path}.tmp')
        os.replace(f'{path}.tmp', path)
        print(f'{"RPN" if name == "rpn" else "Final"} model: {path}')


if __name__ == '__main__':
    _command.run(main)

"""What a training of many images costs before its first iteration: seconds, and memory of each process.

    python tests/scale.py [--images 10000 100000 340000] [--proposals 2000] [--folder /tmp/scale] [--out scale]

Makes a devkit in ILSVRC DET's layout in the folder: an annotation for each image, and for the images links to a few
pictures; and for each number of images proposals, 16 bytes each, which are removed when they have been used. (What
is in images and proposals repeats after PERIOD images; files and rows are as many as they say.) Then trains one
iteration of each stage (RPN, Fast R-CNN; with mirror images) of a tiny net on the first 10,000, 100,000 ... images,
twice, in processes of their own: without and with what is kept in data/cache. Writes OUT.json and OUT.png, and ends
with status 1 unless with the caches there no process takes more than LIMIT_GB and no first iteration comes later
than LIMIT_SECONDS after the stage's start.

Memory is RssAnon + RssShmem of /proc/PID/status, looked at every 20 ms from outside, the most of it at any time:
what a process has written itself. Pages of mapped files (RssFile: the proposals, and libraries) lie in the page
cache, which all processes share and the kernel takes back; they are counted apart, as `mapped`. Pages that a forked
process still shares with its parent are counted for both.
"""

import argparse
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('caffe-fast-rcnn/python', 'lib', 'tests', 'tools')]

import _init_paths  # noqa: E402, F401
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from datasets import factory  # noqa: E402
from datasets.imagenet import SYNSETS, imagenet  # noqa: E402
from devkits import obj, write  # noqa: E402
from utils.processes import in_processes  # noqa: E402
from utils.progress import progress  # noqa: E402

LIMIT_GB, LIMIT_SECONDS = 2, 60
PICTURES, PERIOD, SHARE = 24, 960, 1000
STAGES = {
    'RPN': {'HAS_RPN': True, 'BBOX_REG': False, 'PROPOSAL_METHOD': 'gt', 'IMS_PER_BATCH': 1},
    'Fast R-CNN': {'HAS_RPN': False, 'BBOX_REG': True, 'PROPOSAL_METHOD': 'rpn', 'IMS_PER_BATCH': 2},
}
TOPS = {
    'RPN': ('data', 'im_info', 'gt_boxes'),
    'Fast R-CNN': ('data', 'rois', 'labels', 'bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights'),
}


# ------------------------------------------------------------------------------------------------ devkit
def image_id(i):
    return f'ILSVRC2014_train_{i // 10000:04d}/ILSVRC2014_train_{i:08d}'


@functools.cache
def objects_of(i):
    """Width, height, boxes (G, 4) and classes (G,) of image i < PERIOD: one object, often more."""
    random = np.random.default_rng(i)
    width, height = 300 + 8 * (i % PICTURES), 420 - 6 * (i % PICTURES)
    low = random.integers(0, 200, (1 + random.poisson(0.6), 2))
    boxes = np.hstack([low, low + random.integers(20, 80, low.shape)]).astype(np.float32)
    return width, height, boxes, random.integers(0, len(SYNSETS), len(low))


def make_devkit(root, count):
    """Annotations of so many images, and links to pictures of their sizes."""
    for i in range(PICTURES):
        width, height, *_ = objects_of(i)
        os.makedirs(f'{root}/pictures', exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(f'{root}/pictures/{i}.jpg', noise)
    names = list(SYNSETS)

    def make(share):
        for i in range(share * SHARE, min((share + 1) * SHARE, count)):
            width, height, boxes, classes = objects_of(i % PERIOD)
            objects = [obj(names[k], *map(int, box)) for k, box in zip(classes, boxes)]
            size = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
            name = image_id(i)
            write(
                f'{root}/Annotations/DET/train/{name}.xml',
                f'<annotation>{size}{"".join(objects)}</annotation>',
            )
            image = f'{root}/Data/DET/train/{name}.JPEG'
            os.makedirs(os.path.dirname(image), exist_ok=True)
            os.symlink(f'{root}/pictures/{i % PICTURES}.jpg', image)

    shares = -(-count // SHARE)
    list(progress(in_processes(make, shares), f'devkit, {SHARE} images at a time', shares))


def make_proposals(path, count, number):
    """A proposal file of so many images with `number` boxes each: some near objects, the others anywhere."""
    from utils.proposals import shard_stem, write_index
    from utils.shards import Shard

    rows = [proposals_of(i, number) for i in range(PERIOD)]
    with Shard(shard_stem(path), 4, b'scale'.ljust(32)) as shard:
        for i in progress(range(count), 'proposals'):
            shard.append(rows[i % PERIOD])
    write_index(path, 4, 1, count)


def proposals_of(i, number):
    """Boxes (number, 4) of image i < PERIOD."""
    random = np.random.default_rng(i)
    width, height, boxes, _ = objects_of(i)
    low = random.random((number, 2), np.float32)
    rows = np.hstack([low, low + (1 - low) * random.random((number, 2), np.float32)])
    rows *= np.float32([width - 1, height - 1] * 2)
    near = np.repeat(boxes, min(40, number // len(boxes)), 0)
    rows[: len(near)] = near + np.float32([[-3, -2, 4, 1]]) * random.random((len(near), 1), np.float32)
    return rows.clip(0)


# ------------------------------------------------------------------------------------------------ the nets
def layer(name, kind, bottoms, tops, more=''):
    lines = [f'bottom: "{blob}"' for blob in bottoms] + [f'top: "{blob}"' for blob in tops]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(lines)} {more} }}\n'


def inner_product(name, bottom, outputs):
    filler = (
        f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.001 }} }}'
    )
    return layer(name, 'InnerProduct', [bottom], [name], filler)


def write_solver(folder, stage):
    """A solver of a net that has the stage's data layer and next to nothing else -> its path."""
    tops, classes = TOPS[stage], len(SYNSETS) + 1
    python = f'module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "\'num_classes\': {classes}"'
    net = layer('input-data', 'Python', [], tops, f'python_param {{ {python} }}')
    if stage == 'RPN':
        pooling = 'pooling_param { pool: AVE global_pooling: true }'
        net += layer('pool', 'Pooling', ['data'], ['pool'], pooling) + inner_product('score', 'pool', 1)
        net += layer('loss', 'Reduction', ['score'], ['loss'], 'loss_weight: 1')
        net += layer('rest', 'Silence', tops[1:], [])
    else:
        pooling = 'roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 1 }'
        net += layer('pool', 'ROIPooling', ['data', 'rois'], ['pool'], pooling)
        net += inner_product('cls_score', 'pool', classes) + inner_product('bbox_pred', 'pool', 4 * classes)
        net += layer('loss_cls', 'SoftmaxWithLoss', ['cls_score', 'labels'], ['loss_cls'], 'loss_weight: 1')
        net += layer('loss_bbox', 'SmoothL1Loss', ['bbox_pred', *tops[3:]], ['loss_bbox'], 'loss_weight: 1')
    path = write(f'{folder}/{stage}.prototxt', f'name: "scale"\n{net}')
    rest = 'base_lr: 1e-6 lr_policy: "fixed" display: 1 snapshot: 0 snapshot_prefix: "scale"'
    return write(f'{folder}/{stage}_solver.prototxt', f'train_net: "{path}" {rest}\n')


# ------------------------------------------------------------------------------------------------ measuring
class Marks:
    """Seconds since the process began, of the wall and of all its cores, at each step; also a hook of training."""

    def __init__(self):
        self.steps = []
        self.began = float(os.environ['SCALE_BEGAN'])

    def note(self, step):
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cores = sum(usage.ru_utime + usage.ru_stime for usage in used)
        self.steps.append([step, round(time.time() - self.began, 2), round(cores, 2)])

    def on_start(self, loop):
        self.note('solver')

    def on_step(self, loop, record):
        self.note('first iteration')


def train(folder, stage, count):
    """One iteration of a stage; prints the marks as JSON."""
    marks = Marks()
    from fast_rcnn.config import cfg_from_dict
    from fast_rcnn.train import SolverWrapper, filter_roidb
    from pipeline.stages import training_data

    marks.note('imports')
    cfg_from_dict({'TRAIN': STAGES[stage], 'DATA_DIR': f'{folder}/data'})
    name = f'scale_{count}'
    factory.register(name, lambda: imagenet(name, '2015'))
    _, roidb = training_data(name, f'{folder}/scale_rpn_proposals.json')
    marks.note('roidb')
    roidb = filter_roidb(roidb)
    marks.note('filter')
    out = f'{folder}/out {stage}'
    shutil.rmtree(out, ignore_errors=True)
    wrapper = SolverWrapper(write_solver(folder, stage), roidb, out, resume=True)
    marks.note('statistics, net')
    wrapper.hooks = [marks]
    wrapper.train_model(1)
    print(json.dumps({'entries': len(roidb), 'steps': marks.steps}))


def memory(process):
    """Bytes of a process: (its own, mapped files)."""
    try:
        with open(f'/proc/{process}/status') as stream:
            rows = dict(line.split(':', 1) for line in stream)
        anonymous, shared, mapped = (int(rows[key].split()[0]) for key in ('RssAnon', 'RssShmem', 'RssFile'))
    except (OSError, KeyError):  # it has ended
        return 0, 0
    return 1024 * (anonymous + shared), 1024 * mapped


def descendants(process):
    try:
        with open(f'/proc/{process}/task/{process}/children') as stream:
            children = stream.read().split()
    except OSError:
        return []
    return children + [more for child in children for more in descendants(child)]


def measure(folder, stage, count):
    """Runs `train` in a process of its own -> what it says, and the most memory of it and of any process below it."""
    command = [sys.executable, __file__, '--folder', folder, '--train', stage, str(count)]
    environment = {**os.environ, 'SCALE_BEGAN': str(time.time())}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    most = np.zeros((2, 2), np.int64)
    while child.poll() is None:
        most[0] = np.maximum(most[0], memory(child.pid))
        for process in descendants(child.pid):
            most[1] = np.maximum(most[1], memory(process))
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f'{" ".join(command)}: exit status {child.returncode}')
    (own, mapped), (of_workers, _) = (most / 2**30).round(3).tolist()
    said = json.loads(child.stdout.read().splitlines()[-1])
    return {**said, 'gb': own, 'mapped_gb': mapped, 'worker_gb': of_workers}


def measure_all(folder, counts, number):
    """[result of measure with stage, images, kept: whether the caches were there]"""
    os.makedirs(folder, exist_ok=True)
    root = f'{folder}/data/ImageNet2015'
    make_devkit(root, max(counts))
    results = []
    for count in counts:
        write(f'{root}/ImageSets/DET/scale_{count}.txt', ''.join(f'{image_id(i)}\n' for i in range(count)))
        make_proposals(f'{folder}/scale_rpn_proposals.json', count, number)
        for kept in False, True:
            for stage in STAGES:
                results.append(
                    {'stage': stage, 'images': count, 'kept': kept, **measure(folder, stage, count)}
                )
                print(json.dumps(results[-1]), flush=True)
        for name in os.listdir(folder):
            if name.startswith('scale_rpn_proposals'):
                os.remove(os.path.join(folder, name))
    return results


def plot(results, path):
    """Seconds and memory against images, a line a stage, with the limits."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2))
    wanted = (
        (
            axes[0],
            lambda one: one['steps'][-1][1],
            LIMIT_SECONDS,
            'seconds to the end of the first iteration',
        ),
        (axes[1], lambda one: max(one['gb'], one['worker_gb']), LIMIT_GB, 'GiB of the largest process'),
    )
    for axis, value, limit, label in wanted:
        for stage in STAGES:
            for kept, style in (False, '--'), (True, '-'):
                chosen = [one for one in results if one['stage'] == stage and one['kept'] == kept]
                name = f'{stage}, {"with" if kept else "without"} caches'
                colour = f'C{list(STAGES).index(stage)}'
                axis.plot(
                    [one['images'] for one in chosen],
                    list(map(value, chosen)),
                    colour + style + 'o',
                    label=name,
                )
        axis.axhline(limit, color='grey', linewidth=1, linestyle=':')
        axis.text(
            max(one['images'] for one in results),
            limit,
            f'limit {limit}',
            ha='right',
            va='bottom',
            color='grey',
        )
        axis.set(xlabel='images (each with its mirror image)', ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--images', type=int, nargs='+', default=[10000, 100000, 340000], metavar='N')
    parser.add_argument('--proposals', type=int, default=2000, metavar='N', help='per image')
    parser.add_argument('--folder', default='/tmp/scale', help='removed at the end; must not be there')
    parser.add_argument('--out', default='scale', help='OUT.json and OUT.png are written')
    parser.add_argument('--train', nargs=2, metavar=('STAGE', 'N'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(args.folder, args.train[0], int(args.train[1]))
    os.makedirs(args.folder)
    try:
        results = measure_all(args.folder, args.images, args.proposals)
    finally:
        shutil.rmtree(args.folder)
    with open(f'{args.out}.json', 'w') as stream:
        json.dump(results, stream, indent=1)
    plot(results, f'{args.out}.png')
    late = [
        one
        for one in results
        if one['kept']
        and (one['steps'][-1][1] > LIMIT_SECONDS or max(one['gb'], one['worker_gb']) > LIMIT_GB)
    ]
    return int(bool(late))


if __name__ == '__main__':
    sys.exit(main())

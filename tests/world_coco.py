"""torchvision's recipe for COCO, shrunk, in bf16: two CPU processes train as one does that makes twice the passes, and go
on when one of them is killed.

    python tests/world_coco.py DIR

A net of torchvision's family with few channels, on drawn shapes in COCO's format; of the recipe all that
experiments/cfgs says but the images' size, the rate, four images an update instead of 16, and two epochs instead of 26. Prints
how far losses and weights of the worlds are apart, and writes what was trained to DIR/1, DIR/2 and DIR/killed.
"""

import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('caffe-fast-rcnn/python', 'lib', 'tests')]

import caffe  # noqa: E402
import torch  # noqa: E402
from datasets import own  # noqa: E402
from devkits import write_coco_toy  # noqa: E402
from fast_rcnn.config import cfg, overrides  # noqa: E402
from fast_rcnn.train import get_training_roidb, train_net  # noqa: E402
from netgen.backbones import BACKBONES, Pyramid, ResNet  # noqa: E402
from netgen.files import files  # noqa: E402
from pipeline.settings import cfg_files, seed, settle  # noqa: E402
from world_training import read_log, run_world, weights_apart  # noqa: E402

NET = 'Tiny-FPN'
BODY = ResNet(
    'tiny',
    blocks=(1,) * 4,
    widths=(8, 8, 16, 16),
    conv1_outputs=8,
    bottleneck=False,
    torchvision=True,
    frozen=2,
)
TINY = Pyramid('tiny_fpn', body=BODY, channels=16, rpn_outputs=16, widths=(32, 32))
SHRUNK = {
    'TRAIN.SCALES': [64],
    'TRAIN.MAX_SIZE': 107,
    'TRAIN.REAL_BATCH_SIZE': 4,
    'TRAIN.LR_BATCH': 4,
    'TRAIN.BASE_LR': 0.002,  # so few channels do not stand more
    'TRAIN.BATCH_SIZE': 4 * 32,
    'TRAIN.RPN_BATCHSIZE': 32,
    'TRAIN.RPN_PRE_NMS_TOP_N': 100,
    'TRAIN.RPN_POST_NMS_TOP_N': 100,
    'TRAIN.EPOCHS': 2,
    'TRAIN.EPOCH_STEPS': [1, 1.5],
    'TRAIN.SEED_EACH_IMAGE': True,
    'TRAIN.USE_PREFETCH': False,
    'TRAIN.CHECKPOINT_MINUTES': 1e-6,
    'PRECISION': 'bf16',
}
KILLED = 5  # the iteration after which a worker is


class Kill:
    """The last worker is killed once an iteration is done, before anything of it is written."""

    def on_step(self, loop, record):
        if record['iteration'] == KILLED and caffe.solver_rank() == caffe.solver_count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def prepare(folder):
    """The dataset, and the net with its solver -> the dataset's YAML file, the solver."""
    data = write_coco_toy(f'{folder}/data', train=17, val=1)
    BACKBONES[NET] = TINY
    try:
        made = files('toycoco', NET, 5, out_root=folder)
    finally:
        del BACKBONES[NET]
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return data, str(next(path for path in made if path.match('faster_rcnn_end2end/solver.prototxt')))


def train(data, solver, out, *hooks):
    """What each worker does."""
    settle(None, cfg_files('faster_rcnn_end2end', NET, 'torchvision', 'coco'))
    with overrides(SHRUNK):
        caffe.set_precision(cfg.PRECISION)
        seed(cfg.RNG_SEED)
        imdb = own.make(own.load(data), 'train')
        imdb.set_proposal_method('gt')
        train_net(solver, get_training_roidb(imdb), out, hooks=hooks)


def last_weights(folder):
    (path,) = [name for name in os.listdir(folder) if name.endswith('.caffemodel') and 'resume' not in name]
    return os.path.join(folder, path)


def apart(folder, other):
    """The largest difference of losses in two folders' logs, by the losses' size, and of weights, by the largest of a blob."""
    ours, theirs = read_log(folder), read_log(other)
    assert [r['iteration'] for r in ours] == [r['iteration'] for r in theirs] == list(range(1, 9))
    names = set(ours[0]) - {'seconds', 'iteration'}
    loss = max(abs(a[n] - b[n]) / max(abs(b[n]), 0.1) for a, b in zip(ours, theirs) for n in names)
    return loss, weights_apart(last_weights(folder), last_weights(other))


def run(folder):
    """Trains by one worker and by two, and once more by two of which one is killed -> its workers' exit codes then, and
    when the same training goes on."""
    given = prepare(folder)
    codes = {count: run_world(count, train, *given, f'{folder}/{count}') for count in (1, 2)}
    assert codes == {1: [0], 2: [0, 0]}, codes
    killed = run_world(2, train, *given, f'{folder}/killed', Kill())
    return killed, run_world(2, train, *given, f'{folder}/killed')


def main():
    folder = os.path.abspath(sys.argv[1])
    caffe.set_mode_cpu()
    torch.set_num_threads(1)
    print('exit codes after a kill, and of those that went on:', *run(folder))
    for one, other in (('2', '1'), ('killed', '2')):
        loss, weight = apart(f'{folder}/{one}', f'{folder}/{other}')
        print(f'{one} and {other}: losses within {loss:.1e}, weights within {weight:.1e}')


if __name__ == '__main__':
    main()

"""What goes wrong around a run: a disk that fills up, a folder that may not be written to, images that vanish or break.

Each kind of run is a tool's main in this process, on a copy of the recorded devkit and its tiny nets. `meanwhile` has
something happen in the middle of it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import _command
import check_dataset
import rpn_generate
import train_net
from tool_runs import NETS, RECORDED, VAL, tiny, tool

from datasets import check
from fast_rcnn import each_image
from roi_data_layer import minibatch

TRAIN = 'imagenet_2015_trainval1_woextra'
RPN = [
    'TRAIN.HAS_RPN',
    True,
    'TRAIN.BBOX_REG',
    False,
    'TRAIN.PROPOSAL_METHOD',
    'gt',
    'TRAIN.REAL_BATCH_SIZE',
    1,
]
STATES = [
    'TRAIN.IMS_PER_BATCH',
    1,
    'TRAIN.SCALES',
    [120],
    'TRAIN.CHECKPOINT_MINUTES',
    1e-9,
    'TRAIN.USE_PREFETCH',
    False,
]


@dataclass
class Kind:
    """A kind of run. main: the tool's; words: its flags; settings: of --set; reads: the module whose read_image reads
    its images; made: what is to be there at the end, in the folder of the imdb's results."""

    main: object
    words: list
    settings: list
    reads: object
    made: str


KINDS = {
    'training': Kind(
        train_net.main,
        ['--gpu', 'cpu', '--solver', NETS / 'stage1_rpn_solver60k80k.pt', '--imdb', TRAIN, '--max_iters', 6,
         '--weights', RECORDED / 'init.caffemodel'],
        RPN + STATES,
        minibatch,
        f'{TRAIN}/tiny_rpn_iter_6.caffemodel',
    ),
    'proposing': Kind(
        rpn_generate.main,
        [*tiny('rpn_test.pt', 'stage1_rpn'), '--imdb', VAL],
        ['TEST.RPN_POST_NMS_TOP_N', 200],
        each_image,
        f'{VAL}/stage1_rpn_rpn_proposals.json',
    ),
    'testing': Kind(
        tool('test_net').main,
        [*tiny('faster_rcnn_test.pt', 'stage2_fast_rcnn'), '--imdb', VAL],
        ['TEST.HAS_RPN', True, 'TEST.RPN_POST_NMS_TOP_N', 50],
        each_image,
        f'{VAL}/stage2_fast_rcnn/detections.npz',
    ),
    'checking': Kind(check_dataset.main, [VAL], [], check, ''),
}  # fmt: skip


def devkit(folder):
    """A copy of the recorded devkit -> its images, to be changed."""
    shutil.copytree(RECORDED / 'ImageNet2015', folder / 'ImageNet2015')
    return sorted((folder / 'ImageNet2015' / 'Data').rglob('*.JPEG'))


def run(monkeypatch, kind, folder):
    """A run to its end -> exit status, or the line that it ends with. folder: of the data; results go to its output."""
    words = [str(word) for word in kind.words]
    if kind is not KINDS['checking']:
        single = [
            'ROOT_DIR',
            folder,
            'DATA_DIR',
            folder,
            'TEST.SCALES',
            [120],
            'USE_GPU_NMS',
            False,
            *kind.settings,
        ]
        words += ['--set', *map(str, single)]
    monkeypatch.setattr(sys, 'argv', ['tool', *words])
    monkeypatch.setattr(_command, 'start_log', lambda *rank: None)
    monkeypatch.chdir(RECORDED)
    try:
        _command.run(kind.main)
    except SystemExit as ended:
        return ended.code


def meanwhile(monkeypatch, kind, action, image=4):
    """action() happens before a run reads its so-and-so-many-th image, once."""
    read, count = kind.reads.read_image, iter(range(10**6))

    def read_image(path):
        if next(count) == image:
            action()
        return read(path)

    monkeypatch.setattr(kind.reads, 'read_image', read_image)


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """`folder` is a disk of that size of its own. PermissionError where this process may mount none."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, f'size={kilobytes}k')
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def mount(folder, options):
    """Mounts a disk in memory at `folder`, or one that is there already with other options ('remount,...')."""
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', options, 'none', folder], capture_output=True, text=True
    )
    if done.returncode:
        raise PermissionError(f'mount: {done.stderr.strip()}')


def fill(folder):
    """Leaves no room on the disk of `folder` -> the file to remove for some."""
    path = Path(folder) / 'filler'
    with contextlib.suppress(OSError), open(path, 'wb', buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return path


def may_mount():
    """Whether this process may mount disks."""
    return os.geteuid() == 0 and shutil.which('unshare') and not subprocess.run(
        ['unshare', '-m', 'mount', '-t', 'tmpfs', 'none', '/mnt'], capture_output=True
    ).returncode  # fmt: skip

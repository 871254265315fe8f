#!/usr/bin/env python3
"""Two machines on one: network namespaces with a link between them, torchrun in each. For root, on Linux.

    python tests/two_machines.py FOLDER [--iters N]

In FOLDER, a copy of the project gets a toy devkit; then alternating optimization, rpn_generate.py and test_net.py run on
both machines together, and the last two once more on one: the same proposals and the same mean AP have to come. At
last the link is cut in the middle of a training: both sides have to end within a minute, and the same command has to
go on. tests/test_two_machines.py is the short form.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = '10.213.57.1', '10.213.57.2'
NET, MODELS = 'ResNet-10', 'models/toy/ResNet-10/faster_rcnn_alt_opt'
SMALL = [
    '--set',
    'TRAIN.SCALES',
    '[60]',
    'TEST.SCALES',
    '[60]',
    'TEST.RPN_POST_NMS_TOP_N',
    '20',
    'EXP_DIR',
    'two',
]


@contextlib.contextmanager
def machines():
    """The names of two namespaces that reach each other under ADDRESSES; CalledProcessError, OSError where these
    cannot be made."""
    names = [f'machine{place}-{os.getpid()}' for place in range(2)]
    try:
        for name in names:
            ip('netns', 'add', name)
        ends = [f'v{place}-{os.getpid()}' for place in range(2)]
        ip('link', 'add', ends[0], 'type', 'veth', 'peer', 'name', ends[1])
        for name, end, address in zip(names, ends, ADDRESSES):
            ip('link', 'set', end, 'netns', name)
            for words in (
                ('addr', 'add', f'{address}/24', 'dev', end),
                ('link', 'set', end, 'up'),
                ('link', 'set', 'lo', 'up'),
            ):
                ip('-n', name, *words)
        yield names
    finally:
        for name in names:
            subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


def ip(*words):
    subprocess.run(['ip', *words], check=True, capture_output=True)


def start(names, folder, run, *words, **environment):
    """torchrun of a program on both machines, a worker on each -> their processes. run: a name for this world."""
    return [
        subprocess.Popen(
            [
                *(
                    'ip',
                    'netns',
                    'exec',
                    name,
                    sys.executable,
                    '-m',
                    'torch.distributed.run',
                    '--nnodes',
                    '2',
                ),
                *(
                    '--nproc-per-node',
                    '1',
                    '--rdzv-backend',
                    'c10d',
                    '--rdzv-endpoint',
                    f'{ADDRESSES[0]}:29500',
                ),
                *('--rdzv-id', run, '--rdzv-conf', f'is_host={1 - place}', '--local-addr', ADDRESSES[place]),
                *map(str, words),
            ],
            cwd=folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for place, name in enumerate(names)
    ]


def outputs(processes, timeout=1200):
    return [process.communicate(timeout=timeout)[0] for process in processes]


def together(names, folder, run, *words):
    """What the two print, together; both have to end well."""
    began, processes = time.time(), start(names, folder, run, *words)
    said = '\n'.join(outputs(processes))
    assert all(process.returncode == 0 for process in processes), said
    print(f'{run}: {time.time() - began:.0f} s', flush=True)
    return said


def alone(folder, *words):
    return subprocess.run(
        [sys.executable, *words], cwd=folder, check=True, text=True, capture_output=True
    ).stdout


def copy_project(folder):
    sys.path[:0] = [str(ROOT / 'data')]
    import make_toy

    for part in ('tools', 'lib', 'models', 'caffe-fast-rcnn', 'experiments/scripts', 'experiments/cfgs'):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns('__pycache__', 'toy'))
    make_toy.write(str(folder / 'data' / 'toy'), train=4, val=3)


def whole(names, folder, iters):
    """The recipe, then proposing and testing, on both and on one."""
    recipe = [
        'tools/recipe.py',
        'faster_rcnn_alt_opt',
        'cpu',
        NET,
        'data/toy/toy.yml',
        '--max_iters',
        iters,
        *SMALL,
    ]
    said = together(names, folder, 'recipe', *recipe)
    final, means = re.search('Final model: (.*)', said)[1], re.findall('Mean AP = .*', said)
    assert len(means) == 1 and len(re.findall('Final model', said)) == 1, said
    assert together(names, folder, 'again', *recipe).count('done before') == 6
    cfg = ['--gpu', 'cpu', '--imdb', 'toy_val', '--cfg', 'experiments/cfgs/faster_rcnn_alt_opt.yml']
    rpn = next((folder / 'output/two/toy_train').glob('*_rpn_stage2_iter_*.caffemodel'))
    propose = ['tools/rpn_generate.py', '--def', f'{MODELS}/rpn_test.pt', '--net', str(rpn), *cfg, *SMALL]
    test = ['tools/test_net.py', '--def', f'{MODELS}/faster_rcnn_test.pt', '--net', final, *cfg, *SMALL]
    for name, command, wanted in ('propose', propose, r'Proposals: (.*)'), ('test', test, r'(Mean AP = .*)'):
        both, one = together(names, folder, name, *command), None
        found = re.findall(wanted, both)
        assert len(found) == 1, both
        rows = boxes(folder, found[0]) if name == 'propose' else found[0]
        one = re.search(wanted, alone(folder, *command))[1]
        assert (boxes(folder, one) if name == 'propose' else one) == rows
    assert means == found


def boxes(folder, path):
    """A proposal file's boxes, to tenths of a pixel."""
    code = (
        'import sys; sys.path[:0] = ["lib", "caffe-fast-rcnn/python"]\n'
        'from utils.proposals import load_proposals\n'
        'print([one[:, :4].round(1).tolist() for one in load_proposals(sys.argv[1])])'
    )
    return alone(folder, '-c', code, path)


def workers_of(processes):
    """The numbers of the processes that torchrun has started: `ip netns exec` becomes torchrun."""
    for process in processes:
        yield from Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()


def has_ended(pid):
    return not os.path.exists(f'/proc/{pid}') or open(f'/proc/{pid}/stat').read().split()[2] == 'Z'


def cut(names, folder):
    """A training whose link is cut ends on both sides, and goes on."""
    recipe = ['tools/recipe.py', 'faster_rcnn_end2end', 'cpu', NET, 'toy', '--max_iters', '40', *SMALL]
    log = folder / 'output/two/toy_train/resnet10_faster_rcnn_log.jsonl'
    before, processes = log.stat().st_mtime if log.exists() else 0, start(names, folder, 'cut', *recipe)
    while not log.exists() or log.stat().st_mtime == before or not 2 < len(log.read_text().splitlines()) < 40:
        assert all(process.poll() is None for process in processes), outputs(processes)
        time.sleep(0.1)
    ip('-n', names[1], 'link', 'set', f'v1-{os.getpid()}', 'down')
    began = time.time()
    workers = list(workers_of(processes))
    said = outputs(processes[:1], 120)
    while not all(map(has_ended, workers)):
        assert time.time() - began < 120
        time.sleep(0.1)
    print(f'cut: the workers of both had ended after {time.time() - began:.0f} s', flush=True)
    processes[1].kill()  # torchrun itself waits for its own store
    said += outputs(processes[1:])
    ip('-n', names[1], 'link', 'set', f'v1-{os.getpid()}', 'up')
    assert all(process.returncode for process in processes)
    assert any(re.search('no sign of life|no word', text) for text in said), '\n'.join(said)
    assert 'Mean AP' in together(names, folder, 'mended', *recipe)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--iters', default='2', help='iterations of each training stage')
    args = parser.parse_args()
    copy_project(args.folder)
    with machines() as names:
        whole(names, args.folder, args.iters)
        cut(names, args.folder)


if __name__ == '__main__':
    main()

"""Installs the package into a new virtual environment by pip, and goes the way of a new user in an empty folder: a drawn dataset,
its check, a training of two iterations, a prediction, the model as one file, the Detector.

    python tests/install_check.py [--torch torch==2.13.0] [--keep FOLDER] [--system] [WHEEL]

WHEEL: what is installed (default: the checkout). --torch: what pip is told first, so that a certain build is taken. --system:
the environment sees the packages of this Python, and only the package itself is installed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DETECT = """
import sys
before = {'utils', 'datasets'} & set(sys.modules)
from frcnn import Detector
import caffe
boxes, scores, labels, masks = Detector('model.frcnn', device='cpu', thresh=0.0)(sys.argv[1])
assert not before and len(boxes) == len(scores) == len(labels) and len(boxes)
print('Detector:', len(boxes), 'boxes;', caffe.__file__)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('wheel', nargs='?', default=str(ROOT))
    parser.add_argument('--torch', default='torch', metavar='NAME==RELEASE')
    parser.add_argument('--keep', metavar='FOLDER', help='where all of it happens, and stays')
    parser.add_argument('--system', action='store_true')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check(Path(args.keep or folder).resolve(), args)


def check(folder, args):
    place, work = folder / 'env', folder / 'work'
    work.mkdir(parents=True)
    subprocess.run([sys.executable, '-m', 'venv', place], check=True)
    programs = place / ('Scripts' if os.name == 'nt' else 'bin')
    wheel, kept = os.path.abspath(args.wheel), {}
    for name in 'PATH', 'HOME', 'SYSTEMROOT', 'OMP_NUM_THREADS', 'NVCC', 'FRCNN_PURE', 'CUDA_ARCHS', 'TMPDIR':
        kept.update({name: os.environ[name]} if name in os.environ else {})
    kept.update({name: value for name, value in os.environ.items() if name.startswith('PIP_')})

    def run(program, *words):
        print('+', program, *words, flush=True)
        subprocess.run([programs / program, *words], cwd=work, env=kept, check=True)

    if args.system:
        own = next(path for path in place.rglob('site-packages') if path.is_dir())
        (own / 'system.pth').write_text(
            '\n'.join(path for path in sys.path if path.endswith('site-packages'))
        )
        run('python', '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', wheel)
    else:
        run('python', '-m', 'pip', 'install', '-q', args.torch)
        run('python', '-m', 'pip', 'install', '-q', wheel)
    run('frcnn', '--help')
    run('frcnn', 'doctor')
    run('caffe', 'device_query')
    run('frcnn', 'toy', 'data/toy', '--train', '4', '--val', '2')
    run('frcnn', 'check_dataset', 'data/toy/toy.yml')
    run('frcnn', 'recipe', 'faster_rcnn_end2end', 'cpu', 'ResNet-10', 'data/toy/toy.yml', '--max_iters', '2')
    model = 'output/faster_rcnn_end2end/toy_train/resnet10_faster_rcnn_iter_2.caffemodel'
    pictures = ['data/toy/Data/DET/val', '--gpu', 'cpu', '--thresh', '0.01']
    run('frcnn', 'predict', *pictures, '--out', 'found', '--write', 'json', '--load', model)
    run('frcnn', 'pack', model, '--out', 'model.frcnn')
    picture = next((work / 'data/toy/Data/DET/val').iterdir())
    run('python', '-c', DETECT, picture)
    places = (
        'found/detections.json',
        'output',
        'models/toy/ResNet-10',
        'experiments/logs',
        'data/datasets/toy.yml',
    )
    missing = [name for name in places if not (work / name).exists()]
    assert not missing, missing
    print(f'All of it works; {sorted(path.name for path in work.iterdir())} lie in the folder of work')


if __name__ == '__main__':
    main()

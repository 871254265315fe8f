"""lib/pipeline's table of methods and recipes; experiments/scripts run in a copy of the project."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import make_toy
import numpy as np
import pytest
import recipe as recipe_command

from datasets.factory import describe, register
import caffe
from fast_rcnn.config import cfg, cfg_from_file, cfg_restore, cfg_values
from fast_rcnn.detection import im_detect
from fast_rcnn.train import iter_size
from netgen.files import files, generate
from pipeline import recipe as recipes
from pipeline.methods import METHODS
from pipeline.schedule import follow, warn_of_steps
from pipeline.settings import cfg_files
from pipeline.stages import INITIAL, Training, net_file, propose, stage_cfg, train
from tool_runs import ENVIRONMENT, copy_project

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = [variant for method in METHODS.values() for variant in (method, method.one_round) if variant]


# -------------------------------------------------------------------------------------------- the table
@pytest.mark.parametrize('method', VARIANTS, ids=lambda method: f'{method.name}-{len(method.stages)}')
def test_each_stage_uses_what_an_earlier_one_made(method):
    known = {None, INITIAL}
    for stage in method.stages:
        assert stage.weights in known and stage.proposals in known
        known.add(stage.name)
    assert {stage for _, stage in (method.detector, *method.finals)} <= known
    assert all(len(numbers) >= len(method.trained) for numbers in method.iterations.values())


@pytest.mark.parametrize('method', VARIANTS, ids=lambda method: f'{method.name}-{len(method.stages)}')
@pytest.mark.parametrize('dataset', ['pascal_voc', 'imagenet'])
def test_the_nets_of_each_method_are_there(method, dataset):
    net = 'ResNet-10'
    if method.name == 'mask_rcnn_end2end':  # of COCO alone: the others' objects have no masks
        dataset, net = 'coco', 'ResNet-50-FPN'
    cfg.MODELS_DIR = str(ROOT / 'models' / dataset)
    for name in [stage.net for stage in method.stages] + [method.detector[0]]:
        net_file(net, method.nets, name)
    assert all(map(os.path.exists, cfg_files(method.name, 'ResNet-10', 'caffe', dataset)))


def test_a_stage_gets_its_settings_and_leaves_cfg_alone():
    cfg.TRAIN.REAL_BATCH_SIZE, cfg.PRECISION = 16, 'bf16'
    before = repr(cfg_values())
    wanted = {
        'rpn': ('TRAIN', {'HAS_RPN': True, 'BBOX_REG': False, 'REAL_BATCH_SIZE': 8}),
        'fast_rcnn': ('TRAIN', {'HAS_RPN': False, 'REAL_BATCH_SIZE': 16}),
        'proposals': ('TEST', {'RPN_POST_NMS_TOP_N': 2000}),
    }
    for stage in METHODS['faster_rcnn_alt_opt'].stages:
        infix, _, what = stage.name.partition('_')
        section, values = wanted[what]
        settings = stage_cfg(stage)
        assert {key: settings[section][key] for key in values} == values
        assert ({'TRAIN', 'TEST'} - {section}).isdisjoint(settings) and settings['PRECISION'] == 'bf16'
        assert section == 'TEST' or settings['TRAIN']['SNAPSHOT_INFIX'] == infix
        assert {'TRAIN': train, 'TEST': propose}[section] is stage.function
    assert repr(cfg_values()) == before


def test_images_of_a_pass_are_each_stages_own():
    """A real batch of 16 images, 8 for an RPN alone, is so many passes."""
    cfg.TRAIN.REAL_BATCH_SIZE, cfg.TRAIN.RPN_IMS_PER_BATCH, cfg.TRAIN.IMS_PER_BATCH = 16, 4, 2
    passes = []
    for method in 'faster_rcnn_alt_opt', 'rfcn_alt_opt_5step_ohem', 'faster_rcnn_end2end':
        for stage in METHODS[method].trained[:2]:
            settings = stage_cfg(stage)['TRAIN']
            passes.append(iter_size(settings['REAL_BATCH_SIZE'], settings['IMS_PER_BATCH'], 2))
    assert passes == [1, 4, 1, 4, 4]


def test_end_to_end_takes_the_whole_real_batch():
    cfg.TRAIN.HAS_RPN, cfg.TRAIN.REAL_BATCH_SIZE = True, 16
    (stage,) = METHODS['faster_rcnn_end2end'].stages
    assert stage_cfg(stage)['TRAIN']['REAL_BATCH_SIZE'] == 16


@pytest.mark.parametrize('method', METHODS)
def test_the_help_names_a_script_that_there_is(method, capsys):
    with pytest.raises(SystemExit):
        recipe_command.parse_args([method, '--help'])
    script = ROOT / re.search(r'usage: (\S+)', capsys.readouterr().out)[1]
    assert f'common.sh" {method} ' in script.read_text()


def test_a_missing_net_names_those_there_are():
    with pytest.raises(FileNotFoundError, match='ResNet-102.*no such file.*ResNet-101'):
        net_file('ResNet-102', 'faster_rcnn_alt_opt', 'rpn_test.pt')


# -------------------------------------------------------------------------------------------- edited nets
@pytest.mark.parametrize(
    'name, old, new, layer',
    [
        ('faster_rcnn_end2end', "'num_classes': 4", "'num_classes': 7", 'input-data'),
        ('faster_rcnn_end2end', r'num_output: 4\b', 'num_output: 7', 'cls_score'),
        ('faster_rcnn_end2end', r'num_output: 16\b', 'num_output: 28', 'bbox_pred'),
        ('rfcn_end2end', 'num_output: 196', 'num_output: 343', 'rfcn_cls'),
    ],
)
def test_an_edited_net_of_other_classes_is_refused_and_force_writes_it_anew(
    tmp_path, monkeypatch, name, old, new, layer
):
    data = SimpleNamespace(name='mine', num_classes=4, anchors=None, max_iters=100)
    monkeypatch.setattr(recipes, 'generate', partial(generate, out_root=tmp_path))
    monkeypatch.setattr(cfg, 'MODELS_DIR', str(tmp_path / 'mine'))
    cfg.TRAIN.AGNOSTIC = name == 'rfcn_end2end'
    method = METHODS[name]

    def write(**more):
        recipes.Recipe(method.name, 'ResNet-10', 'mine', [], **more).write_nets(data, method)

    write()
    file = 'train_agnostic.prototxt' if cfg.TRAIN.AGNOSTIC else 'train.prototxt'
    net = tmp_path / 'mine' / 'ResNet-10' / name / file
    net.write_text(re.sub(old, new, net.read_text()))
    with pytest.raises(ValueError, match=f'{net}: layer {layer} is for 7 classes .* mine has 4.*--force'):
        write()
    write(force=True)
    assert not re.search(new, net.read_text())


# -------------------------------------------------------------------------------------------- iterations
@pytest.mark.parametrize(
    'given, images, four',
    [
        (5, 100, (5, 5, 5, 5)),
        ([4, 3, 2, 1], 100, (4, 3, 2, 1)),
        (None, 100, (2000, 2000, 1000, 2000)),
        (None, 6000, (48000, 40000, 24000, 40000)),
    ],
)
def test_iterations_of_an_own_dataset(given, images, four, monkeypatch):
    data = SimpleNamespace(max_iters=given, splits={'train': range(images)}, train='train')
    assert recipes.four_iterations(data) == four
    monkeypatch.setattr(recipes, 'describe', lambda name: data)
    for name, wanted in [
        ('faster_rcnn_alt_opt', four),
        ('faster_rcnn_end2end', (max(four),)),
        ('fast_rcnn', four[1:2]),
        ('rfcn_end2end_ohem', (max(four),)),
        ('rfcn_alt_opt_5step_ohem', (*four, four[2])),
    ]:
        assert recipes.iterations(METHODS[name], 'mine') == (wanted, wanted)


def test_published_iterations():
    published = {name: recipes.iterations(method, 'pascal_voc')[0] for name, method in METHODS.items()}
    assert published['faster_rcnn_alt_opt'] == (80000, 40000, 80000, 40000)
    assert published['rfcn_end2end'] == published['rfcn_end2end_ohem'] == (110000,)
    assert published['rfcn_alt_opt_5step_ohem'] == (80000, 120000, 80000, 120000, 80000)
    assert published['faster_rcnn_end2end'] == (70000,) and published['fast_rcnn'] == (40000,)


@pytest.mark.parametrize('dataset', ['pascal_voc_0712', 'coco'])
def test_the_rate_falls_within_the_iterations_of_large_sets(dataset):
    planned = {name: recipes.iterations(method, dataset)[0] for name, method in METHODS.items()}
    data = describe(dataset)
    texts = {str(path): text for path, text in files(dataset, 'ResNet-10', data.num_classes).items()}
    for name, method in METHODS.items():
        for stage, iterations in zip(method.trained, planned[name], strict=True):
            text = texts[str(ROOT / 'models' / dataset / 'ResNet-10' / method.nets / stage.net)]
            assert 0.6 < int(re.search(r'stepsize: (\d+)', text)[1]) / iterations < 0.8, (name, stage)


@pytest.mark.parametrize('given', [[7], [7, 7], [7, 7, 7, 7]])
def test_one_round_takes_one_number_two_or_four(given):
    method = METHODS['faster_rcnn_alt_opt'].one_round
    planned, wanted = recipes.iterations(method, 'pascal_voc', given)
    assert planned[:2] == (80000, 40000) and wanted[:2] == (7, 7)


@pytest.mark.parametrize('given', [[0], [1, 2, 3], [1, 2]])
def test_max_iters_refused(given):
    with pytest.raises(ValueError, match='--max_iters wants one number or 4'):
        recipes.iterations(METHODS['faster_rcnn_alt_opt'], None, given)


# -------------------------------------------------------------------------------------------- schedules
SOLVER = 'train_net: "a/train.pt"\nbase_lr: 0.01\nlr_policy: "{}"\ngamma: 0.1\nsnapshot_prefix: "p"\n'


@pytest.mark.parametrize(
    'policy, steps, scaled',
    [
        ('step', 'stepsize: 60000\n', 'stepsize: 1500\n'),
        ('multistep', 'stepvalue: 40000\nstepvalue: 60000\n', 'stepvalue: 1000\nstepvalue: 1500\n'),
        ('poly', 'max_iter: 80000\n', 'max_iter: 2000\n'),
        ('fixed', '', ''),
    ],
)
def test_the_steps_follow_the_iterations(tmp_path, caplog, policy, steps, scaled):
    """Where the learning rate falls is a share of all iterations, whatever their number."""
    from caffe.format.prototxt import read_solver

    caplog.set_level('INFO')
    for name, text in ('before', steps), ('wanted', scaled):
        (tmp_path / name).write_text(SOLVER.format(policy) + text)
    before, after = str(tmp_path / 'before'), str(tmp_path / 'out' / 'after')
    assert follow(before, 80000, 80000, after) == before and not os.path.exists(after)
    assert follow(before, 80000, 2000, after) == after
    assert read_solver(after) == read_solver(str(tmp_path / 'wanted'))
    assert steps.split('\n')[0].replace(':', '') in caplog.text and 'these are 2000' in caplog.text


def test_a_given_solver_stays_as_it_is_and_is_spoken_of(tmp_path, caplog):
    (tmp_path / 'solver').write_text(SOLVER.format('step') + 'stepsize: 30\n')
    warn_of_steps(str(tmp_path / 'solver'), 31)
    assert not caplog.records
    warn_of_steps(str(tmp_path / 'solver'), 30)
    assert 'first falls after 30 iterations, and 30 are wanted' in caplog.text


def test_imagenet_ends_after_the_first_round():
    import yaml

    one_round = []
    for dataset in 'imagenet', 'pascal_voc':
        (path,) = cfg_files('faster_rcnn_alt_opt', 'ResNet-10', 'caffe', dataset)
        with open(path) as stream:
            one_round.append(not yaml.safe_load(stream)['TEST']['HAS_RPN'])
    assert one_round == [True, False]


@pytest.mark.parametrize(
    'method', [*METHODS.values(), *(m.one_round for m in METHODS.values() if m.one_round)]
)
def test_every_final_model_has_a_sidecar(tmp_path, monkeypatch, method):
    """Of a test net that it is for."""
    written = {}
    monkeypatch.setattr('pipeline.stages.write_sidecar', lambda path, data, net: written.update({path: net}))
    monkeypatch.setattr('pipeline.stages.training_sets', lambda name: [name])
    monkeypatch.setattr('pipeline.stages.net_file', lambda net, nets, name: name)
    results = {stage.name: str(tmp_path / stage.name) for stage in method.stages}
    for path in results.values():
        Path(path).write_bytes(b'')
    job = SimpleNamespace(output_dir=str(tmp_path), net='N', method=method, imdb='x')
    made = Training.finish(job, results)
    finals = {made[stage]: word for word, stage in method.finals} or {made['train']: 'train'}
    assert set(written) == set(finals)
    for path, net in written.items():
        assert ('rpn_test' in net) == (finals[path] == 'rpn') and 'test' in net


# ------------------------------------------------------------------------------------------ pyramids
def test_alternating_optimization_of_a_pyramid(tmp_path, monkeypatch):
    """All six stages, an iteration each: in the second round body and neck stay as the first left them, and the nets that
    it ends with detect."""
    cfg.DATA_DIR = str(tmp_path)  # where datasets are registered
    make_toy.write(str(tmp_path / 'toy'), 2, 1)
    data, method = register(str(tmp_path / 'toy' / 'toy.yml')), METHODS['faster_rcnn_alt_opt']
    generate(data.name, 'ResNet-10-FPN', data.num_classes, tmp_path / 'models')
    cfg_from_file(str(ROOT / 'experiments/cfgs/faster_rcnn_alt_opt.yml'))
    cfg.MODELS_DIR, cfg.ROOT_DIR = str(tmp_path / 'models' / data.name), str(tmp_path)
    cfg.TRAIN.SCALES, cfg.TEST.SCALES, cfg.USE_GPU_NMS, cfg.TRAIN.BATCH_SIZE = (70,), (70,), False, 32

    def run(manifest, name, function, job):
        before = cfg_values()
        result = function(job)
        cfg_restore(before)
        return result

    monkeypatch.setattr('pipeline.manifest.Manifest.run', run)
    training = Training(method, 'ResNet-10-FPN', data.train_imdb, ['cpu'], (100,) * 4, (1,) * 4)
    results = training.finish(training.run())
    nets = {
        stage: caffe.Net(net_file('ResNet-10-FPN', method.nets, name), results[stage], caffe.TEST)
        for stage, name in (
            ('stage1_fast_rcnn', 'fast_rcnn_test.pt'),
            ('stage2_rpn', 'rpn_test.pt'),
            ('stage2_fast_rcnn', 'faster_rcnn_test.pt'),
        )
    }
    first, rpn, last = (net.params for net in nets.values())
    for name in 'conv1', 'res5a_branch2b', 'p5_lateral', 'p2':
        assert (first[name][0].data == rpn[name][0].data).all() and (
            rpn[name][0].data == last[name][0].data
        ).all()
    assert (rpn['rpn_conv_p2'][0].data == last['rpn_conv_p2'][0].data).all()
    assert (first['fc6'][0].data != last['fc6'][0].data).any()
    scores, boxes = im_detect(nets['stage2_fast_rcnn'], np.zeros((90, 120, 3), np.uint8))
    assert scores.shape[1] == data.num_classes and boxes.shape == (len(scores), 4 * data.num_classes)


# ------------------------------------------------------------------------------ the recipes, in a copy of all
@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the project with a small toy devkit: what runs in it touches nothing else."""
    folder = copy_project(tmp_path_factory.mktemp('checkout'))
    (folder / 'data' / 'selective_search_data').rename(folder / 'given')  # only some methods want these
    return folder


FORKS = """
import json, os, runpy, sys
sys.path[:0] = [os.path.abspath('tools'), os.path.abspath('data')]
import _command, recipe  # what takes long to load, once for all
from pipeline.recipe import Recipe
ended = []
for i, (name, *words) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        out = os.open(f'said{i}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = [f'tools/{name}', *words]
        runpy.run_path(sys.argv[0], run_name='__main__')
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended.append((status, open(f'said{i}', errors='replace').read()))
print(json.dumps(ended))
"""


def run_tools(checkout, *commands):
    """Runs tools of the copy, (name, *words) each, one after the other in processes forked from one that has loaded
    torch -> their exit statuses and what they printed."""
    done = subprocess.run(
        [sys.executable, '-c', FORKS],
        input=json.dumps(commands),
        cwd=checkout,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def recipe(checkout, *words, name='faster_rcnn_alt_opt'):
    """Runs experiments/scripts/<name>.sh with `words`; gives its exit status and all that it printed."""
    done = subprocess.run(
        [f'experiments/scripts/{name}.sh', *words],
        cwd=checkout,
        env=ENVIRONMENT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    return done.returncode, done.stdout


TOY = ('cpu', 'ResNet-10', 'data/toy/toy.yml')
REFUSED = [
    ('faster_rcnn_alt_opt', words, message)
    for words, message in [
        (('cpu', 'ResNet-11', 'pascal_voc'), "unknown net 'ResNet-11'.*ResNet-101"),
        (('cpu', 'ResNet-10', 'pascalvoc'), 'unknown dataset pascalvoc; the nearest is pascal_voc'),
        (('cpu', 'ResNet-10', 'nowhere/mine.yml'), 'nowhere/mine.yml: no such'),
        (('cpu', 'ResNet-101', 'imagenet'), 'ResNet-101.caffemodel: no such file.*import_weights.py'),
        (('gpu', *TOY[1:]), "wanted cpu, cpu:N, a GPU's number"),
        (('99', *TOY[1:]), 'GPU 99 '),
        (('7', '8', *TOY[1:]), 'GPU 7, 8 was asked for, but torch .* sees'),
        ((*TOY, '--set', 'TRAIN.SCALE', '[200]'), 'nearest is TRAIN.SCALES'),
        ((*TOY, '--set', 'EXP_DIR', '../models/generate.py'), 'recipe.py: .*models/generate.py'),
        ((*TOY, '--max_iters', '3', '4'), '--max_iters wants one number or 4'),
    ]
] + [
    ('fast_rcnn', (*TOY, '--stages', '1'), 'fast_rcnn has no first round'),
    # before anything is trained
    ('fast_rcnn', ('cpu', 'ResNet-10', 'pascal_voc'), 'voc_2007_test.mat: no such file.*data/README.md'),
]


def test_a_script_says_what_it_wants(checkout):
    status, output = recipe(checkout, 'cpu', 'ResNet-10')
    assert status and 'usage: ' in output and 'Traceback' not in output, output


def test_what_a_recipe_refuses(checkout):
    ended = run_tools(checkout, *(('recipe.py', name, *words) for name, words, _ in REFUSED))
    for (status, output), (_, _, message) in zip(ended, REFUSED, strict=True):
        assert status and re.search(message, output) and 'Traceback' not in output, output


def test_alternating_optimization(checkout):
    words = 'faster_rcnn_alt_opt', *TOY, '--max_iters', '2'
    models, folder = 'models/toy/ResNet-10/faster_rcnn_alt_opt', 'output/faster_rcnn_alt_opt/toy_train'
    final, pictures = f'{folder}/ResNet-10_faster_rcnn_final.caffemodel', f'{folder}/pictures'
    net = '--cpu', '--def', f'{models}/faster_rcnn_test.pt', '--net', final
    first, second, demo = run_tools(
        checkout,
        ('recipe.py', *words, '--stages', '1', '--set', 'TEST.RPN_POST_NMS_TOP_N', '20'),
        ('recipe.py', *words),
        ('demo.py', *net, 'data/toy/Data/DET/val', '--out', pictures),
    )
    status, output = first
    assert status == 0 and re.search(r'RPN model: .*\nFinal model: (.|\n)*Mean AP = \d', output), output
    log = checkout / re.search('Logging output to (.*)', output)[1]
    assert re.search(r'Final model: (.|\n)*Mean AP = \d', log.read_text())
    status, output = second
    assert status == 0 and re.search(rf'Final model: .*{final}(.|\n)*Mean AP = \d', output), output
    assert output.count('done before') == 3
    assert demo[0] == 0, demo[1]
    assert len(list((checkout / pictures).glob('*.png'))) == 2


@pytest.mark.parametrize('device, number', [('cpu', signal.SIGTERM), ('cpu:2', signal.SIGINT)])
def test_a_stopped_recipe_goes_on(checkout, device, number):
    """End to end, stopped in the middle of training, far from any snapshot: the same command begins where it was. SIGTERM comes to
    the command alone, SIGINT to all, as Ctrl-C does."""
    log = checkout / 'output' / 'stopped' / 'toy_train' / 'resnet10_faster_rcnn_log.jsonl'
    small = 'EXP_DIR stopped TRAIN.SCALES [60] TEST.SCALES [60] RNG_SEED'.split()
    words = [
        device,
        'ResNet-10',
        'data/toy/toy.yml',
        '--max_iters',
        '12',
        '--set',
        *small,
        str(number + len(device)),
    ]
    done = subprocess.Popen(
        ['experiments/scripts/faster_rcnn_end2end.sh', *words],
        cwd=checkout,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    iterations = lambda: len(log.read_text().splitlines()) if log.exists() else 0  # noqa: E731
    before = iterations()
    while iterations() in (0, before) and done.poll() is None:
        time.sleep(0.02)
    (os.kill if number == signal.SIGTERM else os.killpg)(done.pid, number)
    output = done.communicate(timeout=300)[0]
    assert done.returncode == 128 + number and 'Traceback' not in output, output
    stopped = int(re.search(r'stopped after iteration (\d+) of 12; the same command goes on', output)[1])
    assert iterations() == stopped < 12
    status, output = recipe(checkout, *words, name='faster_rcnn_end2end')
    assert status == 0 and f'Going on from iteration {stopped}' in output, output
    assert iterations() == 12 and re.search(r'Mean AP = \d', output)
    assert re.search(r'stage 1 of 1, iteration 12/12, loss .* left, .* in all, .* so far', output), output


def test_given_proposals(checkout):
    shutil.copytree(checkout / 'given', checkout / 'data' / 'selective_search_data')
    results = 'output/fast_rcnn/toy_val/resnet10_fast_rcnn_iter_2'
    (status, output), scored, recalled = run_tools(
        checkout,
        ('recipe.py', 'fast_rcnn', *TOY, '--iters', '2'),
        ('reval.py', results, '--imdb', 'toy_val'),
        ('eval_recall.py', '--imdb', 'toy_val'),
    )
    assert status == 0 and re.search(r'Mean AP = \d', output), output
    mean = re.findall(r'Mean AP = .*', output)[-1]
    assert scored[0] == 0 and mean in scored[1], scored
    assert recalled[0] == 0 and 'Recall@0.50' in recalled[1], recalled

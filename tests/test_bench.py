"""tools/bench.py and lib/speed: that rows work and all contenders compute the same; not how long they take."""

import json

import cv2
import numpy as np
import pytest
import torch

import caffe
from fast_rcnn.config import overrides
from speed import nets, pipeline, report, rows
from speed.measure import Contender, LeftOut, Spent, difference, interleaved
from tool_runs import ROOT, tool


@pytest.fixture
def a_row(monkeypatch):
    """Registers a row for a test: a_row({who: function() -> Contender}, ...) -> its name."""

    def put(contenders, **more):
        monkeypatch.setitem(rows.ROWS, 'it', rows.Row(lambda case: (contenders, None), **more))
        return 'it'

    return put


def contenders(tmp_path, name, *wanted):
    """{who: Contender} of a row, small, its settings in force; its Prepared."""
    case = rows.Case(str(tmp_path), True, name)
    there, absent, ready = rows.contenders_of(case, wanted)
    assert list(there) == list(wanted) and not absent
    return there, ready


# ------------------------------------------------------------------------------------------------ the clock
def test_contenders_take_turns():
    calls = []
    times = interleaved({who: Contender(lambda who=who: calls.append(who)) for who in 'ab'}, 2)
    assert calls == list('ababab') and [len(times[who].seconds) for who in 'ab'] == [2, 2]


def test_a_row_that_takes_too_long_has_fewer_rounds():
    calls = []
    times = interleaved({'ours': Contender(lambda: calls.append(1))}, 5, seconds=0)['ours']
    assert len(calls) == 2 and len(times.seconds) == 1


def test_a_call_may_say_what_counts():
    spent = iter([Spent(9), Spent(3, {'net': 2}), Spent(5, {'net': 4}), Spent(4, {'net': 3})])
    times = interleaved({'ours': Contender(lambda: next(spent))}, 3)['ours']
    assert times.seconds == [3, 5, 4] and times.median == 4 and times.parts == {'net': [2, 4, 3]}
    assert list(report.notes(times)) == [
        'not the net: 25.0%'
    ]  # (4 - 3) / 4 is the middle one of 1/3, 1/5, 1/4


def test_difference():
    ours = {'a': np.array([[1.0, -4.0]]), 'b': np.zeros(1)}
    assert difference(ours, {'a': np.array([1.0, -3.0]), 'c': np.ones(1)}) == 0.25
    assert difference(ours, {'c': np.ones(1)}) is None


# ------------------------------------------------------------------------------------------------ rows
def test_another_answer_is_refused(a_row, tmp_path):
    answers = {'ours': 1.0, 'good': 1.0001, 'bad': 1.01}
    made = {
        who: lambda x=x: Contender(lambda: None, lambda: {'top': torch.tensor([x])})
        for who, x in answers.items()
    }
    case = rows.Case(str(tmp_path), True, a_row(made))
    with pytest.raises(ValueError, match='it: the answer of bad differs from ours by 0.01'):
        rows.measure(case, 1)
    times, _ = rows.measure(case, 1, ['ours', 'good'])
    assert times['good'].difference == pytest.approx(1e-4, rel=1e-2) and times['ours'].difference is None


def test_what_cannot_run_is_left_out(a_row, tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: None)
    made = {'ours': lambda: Contender(lambda: None), 'compiled': lambda: nets.compiled(torch.nn.ReLU())}
    times, _ = rows.measure(rows.Case(str(tmp_path), True, a_row(made)), 1)
    assert times['compiled'].left_out == 'torch.compile wants g++'
    result = {'row': 'it', 'images': 1, 'flops': 0, 'contenders': times}
    assert (
        report.lines(result, {'float32': {'conv': 1}})[1].split()
        == 'compiled left out: torch.compile wants g++'.split()
    )


def test_what_fails_when_it_answers_is_left_out(a_row, tmp_path):
    def fails():
        raise LeftOut('because')

    made = {'ours': lambda: Contender(lambda: None), 'other': lambda: Contender(fails, fails)}
    times, _ = rows.measure(rows.Case(str(tmp_path), True, a_row(made)), 1)
    assert times['other'].left_out == 'because' and len(times['ours'].seconds) == 1


@pytest.mark.parametrize('method', ['faster_rcnn', 'rfcn'])
def test_others_give_our_answer(tmp_path, method):
    there, ready = contenders(tmp_path, f'test/{method}/ResNet-101', 'ours', 'PyTorch', 'OpenCV')
    answers = {who: contender.answer() for who, contender in there.items()}
    assert set(answers['ours']) == {'rpn_cls_prob_reshape', 'rpn_bbox_pred', 'cls_prob', 'bbox_pred'}
    assert len(answers['ours']['cls_prob']) == len(ready.given['rois']) > 10
    for who in 'PyTorch', 'OpenCV':
        assert difference(answers['ours'], answers[who]) < 1e-4


@pytest.mark.parametrize('method, near', [('end2end', 1e-5), ('masks', 1e-4)])
def test_the_plain_pyramid_answers_and_loses_as_ours_does(tmp_path, method, near):
    for phase in 'test', 'train':
        name = f'{phase}/{method}/ResNet-50-FPN'
        with overrides(rows.Case('', True, name).settings(rows.ROWS[name])):
            there, _ = contenders(tmp_path, name, 'ours', 'PyTorch')
            ours, plain = (contender.answer() for contender in there.values())
        assert ours.keys() == plain.keys() and {'loss_cls' if phase == 'train' else 'cls_prob'} <= ours.keys()
        assert difference(ours, plain) < near
        assert ({'loss_mask', 'mask_prob'} & ours.keys() != set()) == (method == 'masks')


def test_the_plain_net_trains_as_ours_does(tmp_path):
    name = 'train/end2end/ResNet-101'
    with overrides(rows.Case('', True).settings(rows.ROWS[name])):
        there, ready = contenders(tmp_path, name, 'PyTorch')
        net = caffe.Net(ready.path, caffe.TRAIN)
        net.copy_from(ready.weights)
        losses = ready.run(net, {})
        net.backward()
        module = nets.Plain(ready.path, caffe.TRAIN, ready.weights)
    answer = module({name: torch.from_numpy(ready.given[name]) for name in module.inputs})
    sum(answer.values()).backward()
    assert set(answer) == {'rpn_loss_cls', 'rpn_loss_bbox', 'loss_cls', 'loss_bbox'}
    assert difference(losses, {name: loss.detach() for name, loss in answer.items()}) < 1e-5
    learned = dict(module.named_parameters())
    assert {'parts.res4a_branch2a.weight', 'parts.rpn_conv/3x3.bias', 'parts.cls_score.weight'} <= set(
        learned
    )
    assert not any(name.startswith(('parts.conv1', 'parts.res2', 'parts.res3')) for name in learned)
    for name, value in learned.items():
        _, layer, which = name.split('.')
        blob = net.params[layer][which == 'bias']
        assert difference({'': blob.diff}, {'': value.grad}) < 1e-3, name


def test_little_nets_are_frozen_as_large_ones(tmp_path):
    path = f'{ROOT}/models/imagenet/{{}}/faster_rcnn_alt_opt/stage1_rpn_train.pt'
    little = nets.read_net(nets.little_training_net(rows.Case(str(tmp_path)), path.format('ResNet-10')))
    large = {layer.name: layer for layer in nets.read_net(path.format('ResNet-101')).layer}
    for layer in little.layer:
        if layer.name in large and layer.type in ('Convolution', 'BatchNorm', 'Scale'):
            assert [p.lr_mult for p in layer.param] == [p.lr_mult for p in large[layer.name].param], (
                layer.name
            )


def test_nets_of_the_rows_are_there(tmp_path):
    for tables in nets.TEST_NETS, nets.TRAIN_NETS:
        for method, (file, backbones, *_) in tables.items():
            for name in backbones:
                case = rows.Case(str(tmp_path), row=f'{method}/{name}')
                assert nets.os.path.exists(f'{case.net(name)}/{file}')


# ------------------------------------------------------------------------------------------------ the command
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        'caffe.limits.limits', lambda precision: {'conv': 400.0, 'matmul': 200.0, 'copy': 20.0}
    )
    out = str(tmp_path / 'out')
    words = 'detect/im_detect_boxes nms/2000 test/rpn/ResNet-50 --against ours OpenCV --gpu cpu --small --rounds 2'
    tool('bench').main([*words.split(), '--out', out])
    printed = capsys.readouterr().out
    assert "the machine's limit in float32 (GFLOP/s; copy: GB/s): conv 400, matmul 200, copy 20" in printed
    with open(f'{out}.json') as stream:
        found = json.load(stream)
    names = [row['row'] for row in found['rows']]
    assert names == ['test/rpn/ResNet-50', 'detect/im_detect_boxes', 'nms/2000']
    assert [f'\n{name} ' in printed for name in names] == [True] * 3 and 'not the net: ' in printed
    net = found['rows'][0]
    assert len(net['contenders']['ours']['seconds']) == 2 and net['contenders']['OpenCV']['difference'] < 1e-4
    assert net['flops'] > 1e8 and not list(tmp_path.glob('*.caffemodel'))
    assert cv2.imread(f'{out}.png').std() > 0


def test_memory_is_that_of_one_contender(tmp_path, capsys):
    name = 'train/rpn/ResNet-101'
    with overrides(rows.Case('', True).settings(rows.ROWS[name])):
        contenders(tmp_path, name, 'PyTorch')
    tool('bench').main([name, '--small', '--gpu', 'cpu', '--against', 'PyTorch', '--peak-in', str(tmp_path)])
    assert 1e8 < json.loads(capsys.readouterr().out) < 1e11


def test_choice_of_rows(capsys):
    bench = tool('bench')
    bench.main(['nms', '--list'])
    assert capsys.readouterr().out.split() == ['nms/2000', 'nms/6000', 'nms/12000']
    bench.main(['t*n/*/VGG', '--list'])
    assert capsys.readouterr().out.split() == [f'train/{m}/VGG16' for m in ('rpn', 'fast_rcnn', 'end2end')]
    with pytest.raises(ValueError, match='no row is called typo; they are test/rpn/ResNet-101, '):
        bench.main(['typo'])


@pytest.mark.parametrize(
    'name', ['data/loader/fast_rcnn', 'data/minibatch/rpn', 'evaluation', 'detect/detections']
)
def test_rows_of_the_pipeline(tmp_path, name):
    times, _ = rows.measure(rows.Case(str(tmp_path), True, name), 1, ['ours'])
    assert times['ours'].median > 0


def test_detections_have_something_to_do():
    random = np.random.RandomState(0)
    scores = pipeline.data.scores(300, 201, random)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    assert 100 < (scores[:, 1:] > 0.05).sum() < 600

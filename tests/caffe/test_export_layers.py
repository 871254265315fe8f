"""lib/export: each layer type's form in ONNX, by onnxruntime, against the engine."""

import numpy as np
import pytest

import fork_cases
import layer_cases
from layer_cases import TEST, build, run

onnx = pytest.importorskip('onnx', reason='the export wants onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='the export is checked by onnxruntime')
from export.model import plain_model  # noqa: E402
from export.table import WRITERS  # noqa: E402

CASES = {**layer_cases.CASES, **fork_cases.CASES}
# (type, number of the case): what the refusal says
REFUSED = {
    ('Convolution', 2): 'wants axis 1',
    ('Convolution', 3): 'wants axis 1',
    ('Convolution', 4): 'wants axis 1',
    ('Deconvolution', 2): 'wants axis 1',
    ('SPP', 2): 'MAX or AVE',
    ('Unpooling', 1): 'AVE',
    ('Unpooling', 2): 'TILE',
}
ONE_IMAGE = {'DetectionOutput', 'Proposal'}


def answers(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    wanted = {i.name for i in session.get_inputs()}
    return session.run(None, {k: v for k, v in inputs.items() if k in wanted})


def exported(kind):
    return [(kind, i) for i, it in enumerate(CASES[kind]) if TEST in it.phases]


@pytest.mark.parametrize('kind, i', [case for kind in CASES if kind in WRITERS for case in exported(kind)])
def test_layer(kind, i, tmp_path):
    it, rng = CASES[kind][i], np.random.default_rng(7)
    values = [make(rng).astype(np.float32) for make in it.bottoms]
    if kind in ONE_IMAGE:
        values = [v[:1] for v in values]
    net = build(kind, it, values, TEST, tmp_path)
    if (kind, i) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[kind, i]):
            plain_model(net)
        return
    if it.tops == 0:
        return
    tops, *_ = run(net, values)
    names = [name for name in net.blobs if name[0] == 't']
    found = answers(plain_model(net, names, fixed=True), {f'b{i}': v for i, v in enumerate(values)})
    for ours, theirs in zip(tops, found, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_regions_are_pooled_to_the_last_bit(tmp_path):
    """Edges on halves of cells, beyond the map, and of no size among them."""
    rng, shape = np.random.default_rng(3), (1, 4, 19, 23)
    corners = rng.integers(-20, 400, (400, 4)) + rng.choice([0, 0.5, 0.25], (400, 4))
    corners[::2] = np.hstack(
        [np.minimum(*np.hsplit(corners[::2], 2)), np.maximum(*np.hsplit(corners[::2], 2))]
    )
    values = [rng.standard_normal(shape), np.hstack([np.zeros((400, 1)), corners])]
    values = [v.astype(np.float32) for v in values]
    more = 'roi_pooling_param { pooled_h: 7 pooled_w: 6 spatial_scale: 0.0625 }'
    net = build('ROIPooling', layer_cases.case(more=more), values, TEST, tmp_path)
    [ours], *_ = run(net, values)
    [theirs] = answers(plain_model(net), {'b0': values[0], 'b1': values[1]})
    np.testing.assert_array_equal(theirs, ours)


def test_what_is_refused_says_why(tmp_path):
    """Types without a form: those of the engine that are not in the table, bar what has no bottom or belongs to training."""
    without = {'ConvolutionDeformable', 'DeformableConvolution', 'ModulatedDeformableConvolution'}
    without |= {'DeformablePSROIPooling', 'Im2col', 'LSTM', 'LSTMUnit', 'RNN'}
    losses = {kind for kind in CASES if 'Loss' in kind or 'OHEM' in kind} | {'Accuracy', 'DetectionEvaluate'}
    assert set(CASES) - set(WRITERS) == without | losses, 'docs/export.md says which have no form'
    it, rng = CASES['Accuracy'][0], np.random.default_rng(0)
    net = build('Accuracy', it, [make(rng).astype(np.float32) for make in it.bottoms], TEST, tmp_path)
    with pytest.raises(ValueError, match=r"layer 'L' \(Accuracy\): .*losses and scores belong to training"):
        plain_model(net)

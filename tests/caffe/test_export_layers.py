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
# Types without a form, and cases of others: (type, number of the case): what the refusal says
REFUSED = {
    ('Convolution', 2): 'wants axis 1',
    ('Convolution', 3): 'wants axis 1',
    ('Convolution', 4): 'wants axis 1',
    ('Deconvolution', 2): 'wants axis 1',
    ('SPP', 2): 'MAX or AVE',
}


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

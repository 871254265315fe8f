"""Random chains of layers that OpenCV's Caffe importer knows: it reads our files and answers the same."""

import itertools

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import data, layer, net_from

SMALL = st.floats(-2, 2, width=16)
POSITIVE = st.floats(0.25, 2, width=16)
POINTWISE = {  # type -> its parameters, for a bottom of any shape
    'ReLU': st.sampled_from(['', 'relu_param { negative_slope: 0.25 }']),
    **dict.fromkeys(('AbsVal', 'Sigmoid', 'TanH', 'BNLL', 'Split'), st.just('')),
    'ELU': st.builds('elu_param {{ alpha: {} }}'.format, POSITIVE),
    # whole powers: a root of a negative number is NaN in both
    'Power': st.builds(
        'power_param {{ power: {} scale: {} shift: {} }}'.format, st.integers(1, 3), SMALL, SMALL
    ),
    'Dropout': st.builds(
        'dropout_param {{ dropout_ratio: {} scale_train: {} }}'.format,
        st.sampled_from([0.25, 0.5]),
        st.sampled_from(['true', 'false']),
    ),
}


class Chain:
    """A net that grows: its text, and the shapes of the blobs made so far."""

    def __init__(self, folder, shape):
        self.folder, self.names = folder, (f'b{i}' for i in itertools.count())
        self.text, self.shapes = data('data', *shape), {'data': shape}
        self.makers = {}  # blob -> the layer that wrote it last: OpenCV names outputs by layers
        self.last = 'data'

    @property
    def shape(self):
        return self.shapes[self.last]

    def add(self, kind, more='', bottoms=None, tops=1, in_place=False):
        """Append a layer, by default to the last blob; returns its tops."""
        bottoms = bottoms or [self.last]
        name = next(self.names)
        tops = bottoms if in_place else [name + '_' * i for i in range(tops)]
        self.makers.update((t, name) for t in tops)
        self.text += layer(name, kind, ' '.join(bottoms), ' '.join(tops), more)
        net = net_from(self.folder, self.text)
        self.shapes.update((t, net.blobs[t].shape) for t in tops)
        self.last = tops[0]
        return tops


FILLERS = 'weight_filler { type: "msra" } bias_filler { type: "gaussian" std: 0.2 }'


def divisors(*numbers):
    return st.sampled_from([d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)])


def extent(draw, name, low, high):
    """A field for both axes, or name_h and name_w."""
    if draw(st.booleans()):
        return f'{name}: {draw(st.integers(low, high))}'
    stem = name.replace('_size', '')
    return ' '.join(f'{stem}_{axis}: {draw(st.integers(low, high))}' for axis in 'hw')


def filters(draw, chain):
    """What Convolution and Deconvolution share."""
    outputs = draw(st.integers(1, 3)) * 2
    return f"""num_output: {outputs} group: {draw(divisors(chain.shape[1], outputs))} {FILLERS}
        bias_term: {draw(st.sampled_from(['true', 'false']))} {extent(draw, 'stride', 1, 2)}"""


def convolution(draw, chain):
    chain.add(
        'Convolution',
        f"""convolution_param {{ {filters(draw, chain)}
        {extent(draw, 'kernel_size', 1, 3)} {extent(draw, 'pad', 0, 2)}
        dilation: {draw(st.integers(1, 2))} }}""",
    )


def deconvolution(draw, chain):
    """OpenCV's has no dilation, and crashes where the padding reaches the kernel's size."""
    chain.add(
        'Deconvolution',
        f"""convolution_param {{ {filters(draw, chain)}
        {extent(draw, 'kernel_size', 2, 4)} {extent(draw, 'pad', 0, 1)} }}""",
    )


def pooling(draw, chain):
    method = draw(st.sampled_from(['MAX', 'AVE']))
    window = (
        'global_pooling: true'
        if draw(st.integers(0, 5)) == 0
        else f'kernel_size: {draw(st.integers(2, 4))} {extent(draw, "stride", 1, 2)} {extent(draw, "pad", 0, 1)}'
    )
    chain.add('Pooling', f'pooling_param {{ pool: {method} {window} }}')


def lrn(draw, chain):
    region = draw(st.sampled_from(['ACROSS_CHANNELS', 'WITHIN_CHANNEL']))
    chain.add(
        'LRN',
        f"""lrn_param {{ local_size: {draw(st.sampled_from([3, 5]))} alpha: {draw(POSITIVE)}
        norm_region: {region} }}""",
    )


def normalization(draw, chain):
    """BatchNorm and Scale, in place or not."""
    in_place, eps = draw(st.booleans()), draw(st.sampled_from([1e-5, 1e-2]))
    chain.add('BatchNorm', f'batch_norm_param {{ eps: {eps} }}', in_place=in_place)
    chain.add(
        'Scale',
        """scale_param { bias_term: true filler { type: "uniform" min: 0.5 max: 1.5 }
              bias_filler { type: "gaussian" std: 0.2 } }""",
        in_place=in_place,
    )


def mvn(draw, chain):
    """With the tiny default of eps, which OpenCV adds to the variance, Caffe to its root."""
    variance, across = (draw(st.sampled_from(['true', 'false'])) for _ in range(2))
    chain.add('MVN', f'mvn_param {{ normalize_variance: {variance} across_channels: {across} }}')


def prelu(draw, chain):
    """Not channel_shared: its blob has no axes, which OpenCV does not read."""
    chain.add('PReLU', 'prelu_param { filler { type: "uniform" min: -1 max: 1 } }')


def permute(draw, chain):
    order = ' '.join(f'order: {i}' for i in draw(st.permutations(range(4))))
    chain.add('Permute', f'permute_param {{ {order} }}')


def interp(draw, chain):
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    chain.add('Interp', f'interp_param {{ height: {height} width: {width} }}')


def shuffle(draw, chain):
    chain.add('ShuffleChannel', f'shuffle_channel_param {{ group: {draw(divisors(chain.shape[1]))} }}')


def crop(draw, chain):
    """Crop to the size of the blob's own pooled version."""
    whole = chain.last
    (small,) = chain.add('Pooling', 'pooling_param { kernel_size: 2 stride: 2 }')
    spare = [a - b for a, b in zip(chain.shapes[whole][2:], chain.shapes[small][2:])]
    offset = ' '.join(f'offset: {draw(st.integers(0, s))}' for s in spare)
    (cut,) = chain.add('Crop', f'crop_param {{ axis: 2 {offset} }}', [whole, small])
    chain.add('Eltwise', '', [cut, small])


def pointwise(draw, chain):
    kind = draw(st.sampled_from(sorted(POINTWISE)))
    chain.add(kind, draw(POINTWISE[kind]), in_place=kind not in ('Split', 'Dropout') and draw(st.booleans()))


def an_axis(draw, chain):
    """Any axis but the first."""
    return draw(st.integers(1, len(chain.shape) - 1))


def eltwise(draw, chain):
    first = chain.last
    (other,) = chain.add('TanH')
    how = draw(st.sampled_from(['operation: PROD', 'operation: MAX', 'coeff: 0.5 coeff: -2', '']))
    chain.add('Eltwise', f'eltwise_param {{ {how} }}', [first, other])


def concat(draw, chain):
    first = chain.last
    (other,) = chain.add('Sigmoid')
    chain.add('Concat', f'concat_param {{ axis: {an_axis(draw, chain)} }}', [first, other, first])


def slice_(draw, chain):
    """Cut, and joined again in another order."""
    axis = draw(st.sampled_from([i for i, size in enumerate(chain.shape) if i and size > 1] or [0]))
    if axis == 0:
        return pointwise(draw, chain)
    at = draw(st.integers(1, chain.shape[axis] - 1))
    tops = chain.add('Slice', f'slice_param {{ axis: {axis} slice_point: {at} }}', tops=2)
    chain.add('Concat', f'concat_param {{ axis: {axis} }}', tops[::-1])


def softmax(draw, chain):
    chain.add('Softmax', f'softmax_param {{ axis: {an_axis(draw, chain)} }}')


def flatten(draw, chain):
    axis, end_axis = sorted(an_axis(draw, chain) for _ in range(2))
    chain.add('Flatten', f'flatten_param {{ axis: {axis} end_axis: {end_axis} }}')


def reshape(draw, chain):
    """All axes but the first become one or two; or one becomes two, up to OpenCV's five for Eltwise."""
    ways = [
        'shape { dim: 0 dim: -1 }',
        'shape { dim: 0 dim: 1 dim: -1 } axis: 0',
        'shape { dim: 1 dim: -1 } axis: 1 num_axes: 1',
    ][: 3 if len(chain.shape) < 5 else 2]
    chain.add('Reshape', f'reshape_param {{ {draw(st.sampled_from(ways))} }}')


def inner_product(draw, chain):
    chain.add(
        'InnerProduct',
        f"""inner_product_param {{ num_output: {draw(st.integers(1, 5))}
        axis: {an_axis(draw, chain)} {FILLERS} bias_term: {draw(st.sampled_from(['true', 'false']))} }}""",
    )


SPATIAL = [
    convolution,
    deconvolution,
    pooling,
    lrn,
    normalization,
    mvn,
    prelu,
    permute,
    interp,
    shuffle,
    crop,
]
ANY = [pointwise, eltwise, concat, slice_, softmax, flatten, reshape, inner_product]


def grow(draw, folder):
    """A chain of one to five of these steps."""
    limits = (1, 2), (1, 4), (5, 9), (5, 9)
    chain = Chain(folder, tuple(draw(st.integers(*limit)) for limit in limits))
    for _ in range(draw(st.integers(1, 5))):
        spatial = len(chain.shape) == 4 and min(chain.shape[2:]) > 3
        draw(st.sampled_from(SPATIAL + ANY if spatial else ANY))(draw, chain)
    return chain


def randomise(net, rng):
    """Statistics of BatchNorm as of a trained net."""
    for one in net.layers:
        if one.type == 'BatchNorm':
            one.blobs[0].data[...] = rng.standard_normal(one.blobs[0].shape)
            one.blobs[1].data[...] = rng.uniform(1, 4, one.blobs[1].shape)
            one.blobs[2].data[...] = 2


def compare(chain, seed):
    """All outputs of the net, with random weights and values, by our engine and by OpenCV."""
    net = net_from(chain.folder, chain.text)
    rng = np.random.default_rng(seed)
    randomise(net, rng)
    values = rng.standard_normal(chain.shapes['data']).astype(np.float32)
    weights = str(chain.folder / 'w.caffemodel')
    net.save(weights)
    ours = net.forward(data=values)
    other = cv2.dnn.readNetFromCaffe(str(chain.folder / 'net.prototxt'), weights)
    other.enableFusion(False)  # it folds BatchNorm wrongly into a Deconvolution of several groups
    other.setInput(values)
    for name, array in ours.items():
        theirs = other.forward(chain.makers[name])
        assert theirs.shape == array.shape, chain.text
        atol = 1e-4 * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(array, theirs, rtol=1e-3, atol=atol, err_msg=chain.text)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(choices=st.data(), seed=st.integers(0, 99))
def test_chains_agree_with_opencv(tmp_path_factory, choices, seed):
    compare(grow(choices.draw, tmp_path_factory.mktemp('chain')), seed)

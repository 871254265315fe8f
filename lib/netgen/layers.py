"""Single layers as lines of a prototxt.

`lr` is how a part learns: 1 it does, 0 it is frozen, None: in a test net, which says nothing of learning.
`share`: layers of one such name have the same blobs.
"""

from typing import NamedTuple


class FeatureMap(NamedTuple):
    """What a trunk gives to the heads."""

    blob: str
    stride: int  # pixels
    channels: int


def layer(name, kind, bottom, top, *fields):
    """One line; bottom and top are blob names, one or several separated by blanks."""
    blobs = [f'bottom: "{b}"' for b in bottom.split()] + [f'top: "{t}"' for t in top.split()]
    return ' '.join(['layer {', f'name: "{name}" type: "{kind}"', *blobs, *filter(None, fields), '}'])


def rates(lr, blobs='wb', share=''):
    """The param fields of weights (w), of a bias (b), which learns twice as fast and decays like the weights,
    as in the published nets, or of Scale's gamma and beta (g), which do not decay."""
    if lr is None and not share:
        return ''
    fields = []
    for i, blob in enumerate(blobs):
        words = [f'name: "{share}_{i}"'] if share else []
        if lr is not None:
            words.append(
                'lr_mult: %d decay_mult: %d' % {'w': (lr, lr), 'b': (2 * lr, lr), 'g': (lr, 0)}[blob]
            )
        fields.append(f'param {{ {" ".join(words)} }}')
    return ' '.join(fields)


def conv(
    name,
    bottom,
    outputs,
    kernel,
    lr,
    stride=1,
    pad=0,
    bias=True,
    std=None,
    top=None,
    dilation=1,
    share='',
    filler=None,
    moved=0,
):
    """Convolution; filled as He et al. 2015 unless std, of a Gaussian, or a filler is given. moved: ConvolutionDeformable, of so
    many deformable groups."""
    filler = filler or ('type: "msra"' if std is None else f'type: "gaussian" std: {std}')
    shape = f'num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad}'
    shape += '' if bias else ' bias_term: false'
    shape += f' dilation: {dilation}' if dilation > 1 and kernel > 1 else ''
    shape += f' deformable_group: {moved}' if moved else ''
    kind, param = ('ConvolutionDeformable', 'deformable_') if moved else ('Convolution', '')
    return layer(
        name,
        kind,
        bottom,
        top or name,
        rates(lr, 'wb' if bias else 'w', share),
        f'{param}convolution_param {{ {shape} weight_filler {{ {filler} }} }}',
    )


def moves(name, bottom, window, groups, modulated):
    """What tells a 3x3 ConvolutionDeformable `name` where to look, from what it looks at: <name>_move and, where modulated,
    <name>_mask. They begin with no move, and a mask of a half. window: its kernel, lr, stride, pad, dilation."""
    kernel, lr, stride, pad, dilation = window
    both, each = f'{name}_offset', groups * kernel * kernel
    top = both if modulated else f'{name}_move'
    how = dict(dilation=dilation, filler='type: "constant"', top=top)
    lines = [conv(both, bottom, each * (3 if modulated else 2), kernel, lr, stride, pad, **how)]
    if modulated:
        cut = f'slice_param {{ axis: 1 slice_point: {2 * each} }}'
        lines.append(layer(f'{name}_cut', 'Slice', both, f'{name}_move {name}_mask', cut))
        lines.append(layer(f'{name}_mask', 'Sigmoid', f'{name}_mask', f'{name}_mask'))
    return lines


def deconv(name, bottom, outputs, lr):
    """Deconvolution to twice the size, from each cell four."""
    shape = f'num_output: {outputs} kernel_size: 2 stride: 2 weight_filler {{ type: "msra" }}'
    return layer(name, 'Deconvolution', bottom, name, rates(lr), f'convolution_param {{ {shape} }}')


def normed_conv(name, bottom, outputs, kernel, lr, groups, **how):
    """Convolution without a bias, GroupNorm, Scale, at the end in the blob `name`."""
    return [
        conv(name, bottom, outputs, kernel, lr, pad=kernel // 2, bias=False, top=f'{name}_conv', **how),
        *group_norm(name, outputs, groups, f'{name}_gn', f'{name}_scale', lr),
    ]


def group_norm(blob, channels, groups, name, scale, lr):
    """GroupNorm and Scale, layers of these names, from <blob>_conv to `blob`: a new blob, so that plan.py runs both, and a ReLU
    in place, as one. In few channels fewer groups, of two each."""
    count = f'group_num: {min(groups, channels // 2)}'
    return [
        layer(name, 'GroupNorm', f'{blob}_conv', blob, f'group_norm_param {{ {count} }}'),
        layer(scale, 'Scale', blob, blob, rates(lr, 'gg'), 'scale_param { bias_term: true }'),
    ]


def inner_product(name, bottom, outputs, lr, filler, top=None, bias=True):
    shape = f'num_output: {outputs}' + ('' if bias else ' bias_term: false')
    return layer(
        name,
        'InnerProduct',
        bottom,
        top or name,
        rates(lr, 'wb' if bias else 'w'),
        f'inner_product_param {{ {shape} weight_filler {{ {filler} }} }}',
    )


def relu(name, blob):
    return layer(name, 'ReLU', blob, blob)


def pool(name, bottom, kind, kernel, stride, *fields):
    shape = ' '.join([f'pool: {kind} kernel_size: {kernel} stride: {stride}', *fields])
    return layer(name, 'Pooling', bottom, name, f'pooling_param {{ {shape} }}')


def python(name, kind, bottom, top, param_str, *fields):
    """kind: module and class, as in rpn.proposal_layer.ProposalLayer."""
    module, _, cls = kind.rpartition('.')
    return layer(
        name,
        'Python',
        bottom,
        top,
        *fields,
        f'python_param {{ module: "{module}" layer: "{cls}" param_str: "{param_str}" }}',
    )


def reshape(name, bottom, top, *dims):
    shape = ' '.join(f'dim: {dim}' for dim in dims)
    return layer(name, 'Reshape', bottom, top, f'reshape_param {{ shape {{ {shape} }} }}')


def propagate(*to):
    """Which bottoms receive a gradient."""
    return ' '.join(f'propagate_down: {str(bool(each)).lower()}' for each in to)


def softmax_loss(name, bottom, *fields):
    return layer(name, 'SoftmaxWithLoss', bottom, name, propagate(1, 0), 'loss_weight: 1', *fields)


def smooth_l1_loss(name, bottom, *fields):
    return layer(name, 'SmoothL1Loss', bottom, name, 'loss_weight: 1', *fields)


def silence(blobs):
    """Blobs that nothing else reads: so they are no outputs of the net."""
    return layer('silence_' + blobs.split()[0], 'Silence', blobs, '')

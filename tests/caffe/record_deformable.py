"""What torchvision.ops answers for deformable convolution and PS RoI align, to golden/deformable.npz, which
test_deformable.py reads: `python tests/caffe/record_deformable.py`, with a Python that has torchvision (0.14 made it)."""

from pathlib import Path

import numpy as np
import torch
import torchvision.ops as vision

CONVOLUTIONS = {  # name -> x, outputs, kernel, stride, pad, dilation, group, deformable groups, whether there is a mask
    'v1': ((2, 4, 7, 6), 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, 2, False),
    'v2': ((2, 6, 6, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 3, True),
}


def recorded(tensors, answer):
    """The tensors, the answer and, for some gradient of it, theirs."""
    grad = torch.randn(answer.shape)
    found = torch.autograd.grad(answer, [t for t in tensors.values() if t.requires_grad], grad)
    named = zip([k for k, t in tensors.items() if t.requires_grad], found)
    return {**tensors, 'top': answer, 'top_grad': grad, **{f'{k}_grad': g for k, g in named}}


def convolution(shape, outputs, kernel, stride, pad, dilation, group, parts, masked):
    n, c, *size = shape
    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip(size, pad, dilation, kernel, stride)
    ]
    taps = parts * kernel[0] * kernel[1]
    shapes = {'x': shape, 'offset': (n, 2 * taps, *out), 'mask': (n, taps, *out)}
    shapes.update(weight=(outputs, c // group, *kernel), bias=(outputs,))
    if not masked:
        del shapes['mask']
    t = {k: (torch.randn(s) * (1.5 if k == 'offset' else 1)).requires_grad_() for k, s in shapes.items()}
    return recorded(
        t,
        vision.deform_conv2d(
            *(t[k] for k in ('x', 'offset', 'weight', 'bias')), stride, pad, dilation, t.get('mask')
        ),
    )


def alignment(samples):
    corner = torch.rand(12, 2) * 90
    image = torch.arange(12.0)[:, None] % 2
    rois = torch.cat([image, corner, corner + 3 + torch.rand(12, 2) * 80], 1)
    x = torch.randn(2, 18, 6, 7).requires_grad_()
    return recorded({'x': x, 'rois': rois}, vision.ps_roi_align(x, rois, 3, 0.06, samples or -1))


def main():
    torch.manual_seed(0)
    cases = {name: convolution(*numbers) for name, numbers in CONVOLUTIONS.items()}
    cases.update({f'align{samples}': alignment(samples) for samples in (0, 2)})
    arrays = {
        f'{case}/{k}': t.detach().numpy() for case, tensors in cases.items() for k, t in tensors.items()
    }
    np.savez_compressed(Path(__file__).parents[1] / 'golden' / 'deformable.npz', **arrays)


if __name__ == '__main__':
    main()

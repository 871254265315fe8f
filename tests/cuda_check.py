"""For a machine with a GPU: the CUDA kernels against the torch versions, equal answers and times.

    python tests/cuda_check.py [--device N]

Needs torch with CUDA, and the kernels (make all). Prints a line for each kernel: whether its answers are those of the
torch version (exactly, or to rounding), milliseconds of either and, where torchvision is, of its own; then how the layers
of an RPN do on the GPU: whether they draw what they draw on the CPU, and how often they wait for the device; then training
iterations in each precision: their loss is the CPU's, and nothing waits for the device, in fp16 but once, for the loss
scale; then regions that are looked at several times. Exit status 1 where something differs.
"""

import argparse
import os
import sys
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('caffe-fast-rcnn/python', 'lib')]

import caffe  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from caffe import kernels  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402
from caffe.types import boxes as box_lib, deformable, roi  # noqa: E402
from fast_rcnn.config import cfg, overrides  # noqa: E402
from fast_rcnn.detection import im_detect  # noqa: E402
from fpn.boxes import FAMILIES  # noqa: E402
from mask.targets import mask_targets  # noqa: E402
from rpn.generate_anchors import anchor_grid, generate_anchors  # noqa: E402
from rpn.proposals import Level, Limits, propose  # noqa: E402
from rpn.targets import anchor_targets, image_targets  # noqa: E402

try:
    import torchvision.ops as vision
except ImportError:
    vision = None

failed = []


def without_kernels(function, *args):
    found, kernels.compiled = kernels.compiled, lambda: None
    try:
        return function(*args)
    finally:
        kernels.compiled = found


def milliseconds(function, *args, least=5):
    """The median of some calls, by the device's own clock."""
    times = []
    for _ in range(least + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(*args)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times[2:]))


def check(name, function, args, exact, theirs=None, host=True):
    """One line: function(*args) gives a list of tensors, by kernel, without, and on the CPU."""
    got, wanted = function(*args), without_kernels(function, *args)
    on_host = [v.to(got[0].device) for v in function(*(v.detach().cpu() for v in args))] if host else wanted
    worst = 0.0
    for ours, other in [*zip(got, wanted), *zip(got, on_host)]:
        same_shape = ours.shape == other.shape
        span = other.double().abs().max().item() if same_shape and other.numel() else 1.0
        worst = max(
            worst, (ours - other).abs().max().item() / (span or 1.0) if same_shape and other.numel() else 0.0
        )
        worst = worst if same_shape else float('inf')
    again = all(torch.equal(a, b) for a, b in zip(got, function(*args)))
    good = again and (worst == 0 if exact else worst < 1e-4)
    if not good:
        failed.append(name)
    times = f'{milliseconds(function, *args):8.3f} ms, torch {milliseconds(without_kernels, function, *args):9.3f}'
    if theirs and vision:
        times += f', torchvision {milliseconds(theirs):8.3f}'
    verdict = 'equal' if worst == 0 else f'differ by {worst:.1e}'
    print(
        f'{"ok  " if good else "FAIL"} {name:34s} {verdict:17s} {"" if again else "NOT REPEATABLE "}{times}',
        flush=True,
    )


def random_boxes(count, device, width=1000, height=600):
    random = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=random) * torch.tensor([width * 0.8, height * 0.8])
    size = torch.rand(count, 2, generator=random) ** 2 * torch.tensor([width * 0.6, height * 0.6]) + 8
    return torch.cat([corner, torch.minimum(corner + size, torch.tensor([width - 1.0, height - 1.0]))], 1).to(
        device
    )


def boxes(device):
    for count, limit in (300, None), (6000, 300), (12000, 2000), (20000, 2000), (20000, None):
        these = random_boxes(count, device)
        scores = torch.arange(count, 0, -1, device=device).float()
        check(
            f'nms {count} boxes, limit {limit}',
            lambda b, limit=limit: [box_lib.nms(b, 0.7, 1, limit=limit)],
            [these],
            True,
            lambda b=these, s=scores: vision.nms(b, s, 0.7),
        )
    starts = list(range(0, 60001, 300))
    these = random_boxes(starts[-1], device)
    check(
        'nms of 200 classes, 300 boxes each', lambda b: [box_lib.class_nms(b, starts, 0.3, 1)], [these], True
    )
    for dtype in torch.float32, torch.float64:
        a, b = random_boxes(20000, device).to(dtype), random_boxes(50, device).to(dtype)
        check(f'overlaps 20000 x 50 {dtype}', lambda a, b: [box_lib.overlaps(a, b, 1)], [a, b], True)


def regions(device):
    for rois, channels, size in (128, 1024, 14), (300, 512, 7), (2000, 256, 7):
        where = torch.zeros(rois, 1, device=device)
        where = torch.cat([where, random_boxes(rois, device)], 1)
        x = torch.randn(1, channels, 38, 63, device=device)
        grid = dict(pooled_h=size, pooled_w=size, spatial_scale=1 / 16)
        layers = {
            'roi_pooling': lambda x, r: roi.roi_pooling(x, r, **grid),
            'roi_align': lambda x, r: roi.roi_align(x, r, **grid, sampling_ratio=2),
            'roi_align (any density)': lambda x, r: roi.roi_align(x, r, **grid, sampling_ratio=0),
            'roi_align (aligned)': lambda x, r: roi.roi_align(x, r, **grid, sampling_ratio=3, aligned=True),
            'roi_align (corners)': lambda x, r: roi.roi_align(x, r, **grid, sampling_ratio=0, corners=True),
        }
        others = {
            'roi_pooling': lambda: vision.roi_pool(x, where, size, 1 / 16),
            'roi_align': lambda: vision.roi_align(x, where, size, 1 / 16, 2),
        }
        for name, layer in layers.items():
            both_ways(f'{name} {rois} {size}x{size} C{channels}', layer, x, where, name, others.get(name))
    x = torch.randn(1, 21 * 49, 38, 63, device=device)
    both_ways(
        'psroi_pooling 2000 7x7',
        lambda x, r: roi.psroi_pooling(x, r, spatial_scale=1 / 16, output_dim=21, group_size=7),
        x,
        where,
        'psroi_pooling',
    )
    both_ways(
        'psroi_align 2000 7x7',
        lambda x, r: roi.psroi_align(
            x, r, spatial_scale=1 / 16, output_dim=21, group_size=7, sampling_ratio=2
        ),
        x,
        where,
        'psroi_align',
        lambda: vision.ps_roi_align(x, where, 7, 1 / 16, 2),
    )


def moved(device):
    """What the net moves: the samples of a convolution's taps and of position-sensitive pooling."""
    for images, channels, groups, masked in (1, 512, 1, False), (2, 256, 4, True):
        numbers = (3, 3), (1, 1), (2, 2), (2, 2), groups
        x = torch.randn(images, channels, 38, 63, device=device)
        offset = 2 * torch.randn(images, 18 * groups, 38, 63, device=device)
        mask = [torch.rand(images, 9 * groups, 38, 63, device=device)] * masked
        all_ways(
            f'deformable columns {images} x {channels}, {groups} groups{", mask" * masked}',
            lambda x, offset, mask=None, numbers=numbers: deformable.moved_columns(x, offset, mask, *numbers),
            x,
            offset,
            *mask,
        )
        filters = torch.eye(9 * channels, device=device)[:512].view(-1, channels, 3, 3) if vision else None
        theirs = lambda: vision.deform_conv2d(x, offset, filters, None, 1, 2, 2, *mask)
        if vision:
            print(f'     torchvision, with the product: {milliseconds(theirs):8.3f} ms', flush=True)
    where = torch.cat([torch.zeros(300, 1, device=device), random_boxes(300, device)], 1)
    numbers = dict(spatial_scale=1 / 16, output_dim=21, group_size=7, pooled_size=7, part_size=7)
    numbers.update(sample_per_part=4, trans_std=0.1, no_trans=False)
    all_ways(
        'deformable psroi_pooling 300 7x7',
        lambda x, shifts: deformable.deformable_psroi_pooling(x, where.to(x.device), shifts, **numbers),
        torch.randn(1, 21 * 49, 38, 63, device=device),
        torch.randn(300, 2, 7, 7, device=device),
    )


def all_ways(title, layer, *tensors):
    """Two lines: the answer, and the gradients of all tensors."""
    tensors = [t.requires_grad_() for t in tensors]
    check(title, lambda *t: [layer(*t).detach()], tensors, False)
    grad = torch.randn(layer(*tensors).shape, device=tensors[0].device)
    check(
        f'{title}, and back', lambda *t: torch.autograd.grad(layer(*t), t, grad), tensors, False, host=False
    )


def both_ways(title, layer, x, where, name, theirs=None):
    x = x.requires_grad_()
    check(title, lambda x, r: [layer(x, r).detach()], [x, where], name == 'roi_pooling', theirs)
    grad = torch.randn(layer(x, where).shape, device=x.device)

    def backward(x, r):
        return torch.autograd.grad(layer(x, r), x, grad)

    check(f'{title}, and back', backward, [x, where], False, host=False)


def layers(device):
    """The work of the three layers on a 38 x 63 map: on the CPU and on the GPU, the same draws."""
    rng, anchors = np.random.RandomState(0), generate_anchors()
    scores, deltas = (
        rng.rand(1, 9, 38, 63).astype(np.float32),
        (rng.randn(1, 36, 38, 63) / 5).astype(np.float32),
    )
    gt = np.hstack([random_boxes(12, 'cpu').numpy(), rng.randint(1, 21, (12, 1))]).astype(np.float32)
    info = np.float32([[600, 1000, 1.6]])
    limits = Limits(12000, 2000, 0.7, 16)

    def proposals(scores, deltas):
        level = Level(scores, deltas, anchors, 16)
        ((found, _),) = propose([level], info, limits)
        return [found]

    def of_anchors(grid, gt):
        return anchor_targets(grid, gt, info[0], cfg.TRAIN)

    def of_rois(rois, gt):
        return image_targets(rois, [gt], 21, 128, cfg.TRAIN)

    cpu = [torch.from_numpy(v) for v in (scores, deltas)]
    same('proposals', proposals, cpu, [v.to(device) for v in cpu], len)
    grid = anchor_grid(anchors, 38, 63, 16)
    on_device = [torch.from_numpy(v).to(device) for v in (grid, gt)]
    same('anchor targets', of_anchors, [grid, gt], on_device)
    rois = np.hstack([np.zeros((2000, 1)), random_boxes(2000, 'cpu').numpy()]).astype(np.float32)
    same('RoI targets', of_rois, [rois, gt], [torch.from_numpy(v).to(device) for v in (rois, gt)])
    mask_targets_of(rois[:128], device)


def mask_targets_of(rois, device):
    """Of objects that are ellipses: each cell to the rounding of places, at which edges are steep."""
    y, x = np.mgrid[:600, :1000]
    masks = [((x - 500) / (100 + 80 * i)) ** 2 + ((y - 300) / 200) ** 2 < 1 for i in range(5)]
    values = rois, np.arange(len(rois)) % 5, np.float32(masks)
    of_masks = lambda rois, objects, masks: mask_targets(rois, objects, masks, 28, FAMILIES['caffe'])[None]
    on_cpu = [torch.from_numpy(v) for v in values]
    same('mask targets', of_masks, on_cpu, [v.to(device) for v in on_cpu], lambda cells: float(cells.std()))


def same(name, function, on_cpu, on_device, measure=None):
    """One line. measure: what of the answers must be near rather than each number equal to rounding."""
    np.random.seed(3)
    wanted, draw = function(*on_cpu), np.random.rand()
    np.random.seed(3)
    got, their_draw = function(*on_device), np.random.rand()
    good = draw == their_draw and all(torch.is_tensor(v) and v.is_cuda for v in got)
    for ours, theirs in zip(got, wanted):
        if measure:
            good &= abs(measure(ours) - measure(theirs)) <= 0.01 * measure(theirs)
        else:
            good &= np.allclose(ours.cpu().numpy(), np.asarray(theirs), rtol=1e-5, atol=1e-5)
    if not good:
        failed.append(name)
    waits = len(waits_of(function, *on_device))
    print(
        f'{"ok  " if good else "FAIL"} {name:34s} draws {"equal" if draw == their_draw else "DIFFER"}, '
        f'{milliseconds(function, *on_device):8.3f} ms, waits for the device: {waits}',
        flush=True,
    )


def waits_of(function, *args):
    """Where function(*args) waits for the device: file and line of each time."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        function(*args)
        torch.cuda.set_sync_debug_mode('default')
    return [f'{w.filename}:{w.lineno}' for w in told if 'synchroniz' in str(w.message)]


NET = """
layer { name: "data" type: "Input" top: "data" top: "rois" top: "labels"
  input_param { shape { dim: 1 dim: 3 dim: 64 dim: 96 } shape { dim: 32 dim: 5 } shape { dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: false } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "more" type: "Convolution" bottom: "pool" top: "more"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "pool" bottom: "more" top: "sum" }
layer { name: "regions" type: "ROIPooling" bottom: "sum" bottom: "rois" top: "regions"
  roi_pooling_param { pooled_h: 4 pooled_w: 4 spatial_scale: 0.25 } }
layer { name: "score" type: "InnerProduct" bottom: "regions" top: "score"
  inner_product_param { num_output: 8 weight_filler { type: "gaussian" std: 0.02 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "labels" top: "loss" }
"""


def trained():
    """A solver of NET on the present device that is fed with the same numbers each time."""
    text = f'base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 random_seed: 1 net_param {{ {NET} }}'
    solver = caffe.get_solver(text_format.Parse(text, caffe_pb2.SolverParameter()))
    rng = np.random.RandomState(5)
    feed = {
        'data': rng.randn(1, 3, 64, 96),
        'rois': np.hstack([np.zeros((32, 1)), random_boxes(32, 'cpu', 96, 64).numpy()]),
        'labels': rng.randint(0, 8, 32),
    }
    put = lambda: [solver.net.blobs[name].put(values) for name, values in feed.items()]
    solver.add_callback(put, lambda: None)
    return solver


def iterations(device):
    """The loss of the first iteration, and how often a later one waits, in each precision."""
    caffe.set_mode_cpu()
    solver = trained()
    solver.step(1)
    wanted = float(solver.loss)
    caffe.set_mode_gpu()
    for precision, near in ('float32', 1e-4), ('bf16', 12 * 2**-8), ('fp16', 12 * 2**-11):
        caffe.set_precision(precision)
        solver = trained()
        solver.step(1)
        loss = float(solver.loss)
        solver.step(3)
        waits = waits_of(solver.step, 1)
        good = abs(loss - wanted) <= near * wanted and len(waits) == (precision == 'fp16')
        if not good:
            failed.append(f'iteration in {precision}')
        print(
            f'{"ok  " if good else "FAIL"} iteration in {precision:21s} loss {loss:.6f}, on the CPU {wanted:.6f}, '
            f'waits for the device: {len(waits)} {" ".join(waits)}',
            flush=True,
        )
    caffe.set_precision('float32')


def judged(device):
    """Regions looked at again, at several scales and mirrored, are judged as on the CPU."""
    settings = {'TEST.SCALES': [120], 'TEST.REGION_SCALES': [90, 120, 150], 'TEST.REGION_SIDE': 60.0}
    settings |= {'TEST.REFINE': 1, 'TEST.FLIP': True, 'TEST.HAS_RPN': False}
    golden = os.path.join(ROOT, 'tests', 'golden', 'e2e')
    prototxt = os.path.join(golden, 'models', 'Tiny', 'faster_rcnn_alt_opt', 'fast_rcnn_test.pt')
    image = np.random.RandomState(0).randint(0, 255, (120, 160, 3), np.uint8)
    regions, answers = random_boxes(30, 'cpu', 150, 110).numpy(), []
    for use in caffe.set_mode_cpu, caffe.set_mode_gpu:
        use()
        net = caffe.Net(prototxt, os.path.join(golden, 'stage2_fast_rcnn.caffemodel'), caffe.TEST)
        with overrides(settings):
            answers.append(im_detect(net, image, regions))
    far = [float(np.abs(ours - theirs).max()) for ours, theirs in zip(*answers)]
    good = len(answers[1][0]) == 60 and far[0] < 1e-3 and far[1] < 0.1
    if not good:
        failed.append('regions judged again')
    print(
        f'{"ok  " if good else "FAIL"} regions judged again{"":14s} scores within {far[0]:.1e}, boxes {far[1]:.1e}',
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--device', type=int, default=0, metavar='N')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f'needs a GPU; torch {torch.__version__} sees none')
    caffe.set_device(args.device)
    caffe.set_mode_gpu()
    device = caffe.common.device()
    cfg.GPU_ID = args.device
    print(
        torch.cuda.get_device_name(device), '· torch', torch.__version__, '· torchvision', vision is not None
    )
    if not kernels.serve(torch.zeros(1, device=device)):
        sys.exit(f'the kernels are not built, or not for this GPU: make all makes {kernels.PATH}')
    for part in boxes, regions, moved, layers, iterations, judged:
        part(device)
    print('all hold' if not failed else f'DO NOT HOLD: {", ".join(failed)}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()

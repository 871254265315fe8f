"""A small SSD as text: nets to train, test and deploy, and the solver. Liu et al., SSD: Single Shot MultiBox Detector, 2016.

K classes with the background; images are size x size pixels. Three maps, of strides 8, 16 and 32, have four priors at each
place: two squares, two oblongs.
"""

from typing import NamedTuple

from netgen.layers import conv, layer, rates

TRUNK = ((16, 1), (32, 1), (64, 1), (64, 1), (96, 2), (96, 2))  # channels and stride of 3 x 3 convolutions
POOLED = 3  # so many of them have a pooling behind
MAPS = {'conv4': 8, 'conv5': 16, 'conv6': 32}  # blob -> stride in pixels
SIDES = 0.1, 0.35, 0.6, 0.85  # of a map's squares, in images: this, and the geometric mean with the next
PRIORS = 4
VARIANCES = ' '.join(f'variance: {v}' for v in (0.1, 0.1, 0.2, 0.2))
MEAN = ' '.join(f'mean_value: {v}' for v in (104, 117, 123)) + ' scale: 0.017'
SAMPLER = 'sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }'
LIMITS = [f'min_jaccard_overlap: {v}' for v in (0.1, 0.3, 0.5, 0.7, 0.9)] + ['max_jaccard_overlap: 1']
SAMPLERS = ['batch_sampler { max_sample: 1 max_trials: 1 }'] + [
    f'batch_sampler {{ {SAMPLER} sample_constraint {{ {limit} }} max_sample: 1 max_trials: 50 }}'
    for limit in LIMITS
]
CHANGES = (
    'mirror: true emit_constraint { emit_type: CENTER } expand_param { prob: 0.5 max_expand_ratio: 2 }',
    'distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 '
    'contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 }',
)


class Data(NamedTuple):
    """Databases, label map, and lines `name height width` of the test images; how many these are."""

    train: str
    test: str
    labels: str
    sizes: str
    tested: int


def files(folder, data, classes, size, batch, max_iters, rate):
    """{path: text} of the nets and the solver in a folder."""
    image = f'input_param {{ shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} }}'
    nets = {
        'train': [
            *_data(data, data.train, size, batch, True),
            *_trunk(1),
            *_heads(classes, size, 1),
            _loss(classes),
        ],
        'test': [*_data(data, data.test, size, 1, False), *_detector(classes, size), _score(data, classes)],
        'deploy': [layer('data', 'Input', '', 'data', image), *_detector(classes, size)],
    }
    texts = {
        f'{folder}/{name}.prototxt': '\n'.join([f'name: "SSD_{size}_{name}"', *lines, ''])
        for name, lines in nets.items()
    }
    texts[f'{folder}/solver.prototxt'] = _solver(folder, data, max_iters, rate)
    return texts


def _data(data, source, size, batch, train):
    interpolations = ' '.join(f'interp_mode: {m}' for m in ('LINEAR', 'AREA', 'NEAREST', 'CUBIC', 'LANCZOS4'))
    resize = (
        f'resize_param {{ resize_mode: WARP height: {size} width: {size} {interpolations if train else ""} }}'
    )
    annotated = ' '.join([*(SAMPLERS if train else []), f'label_map_file: "{data.labels}"'])
    yield layer(
        'data',
        'AnnotatedData',
        '',
        'data label',
        f'transform_param {{ {MEAN} {resize} {" ".join(CHANGES) if train else ""} }}',
        f'data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }}',
        f'annotated_data_param {{ {annotated} }}',
    )


def _trunk(lr):
    bottom = 'data'
    for i, (channels, stride) in enumerate(TRUNK, 1):
        name = f'conv{i}'
        yield conv(name, bottom, channels, 3, lr, stride, 1, bias=False)
        yield layer(f'bn{i}', 'BatchNorm', name, name)
        yield layer(f'scale{i}', 'Scale', name, name, rates(lr, 'gg'), 'scale_param { bias_term: true }')
        yield layer(f'relu{i}', 'ReLU', name, name)
        bottom = name
        if i <= POOLED:
            bottom = f'pool{i}'
            yield layer(
                bottom, 'Pooling', name, bottom, 'pooling_param { pool: MAX kernel_size: 2 stride: 2 }'
            )


def _heads(classes, size, lr):
    """mbox_loc (N, P 4), mbox_conf (N, P K) and mbox_priorbox (1, 2, P 4); the first map is normalized, as in the paper."""
    first = next(iter(MAPS))
    scale = 'across_spatial: false channel_shared: false scale_filler { type: "constant" value: 20 }'
    yield layer(f'{first}_norm', 'Normalize', first, f'{first}_norm', f'norm_param {{ {scale} }}')
    for i, (name, stride) in enumerate(MAPS.items()):
        bottom = f'{name}_norm' if name == first else name
        for what, outputs in (('loc', 4), ('conf', classes)):
            top = f'{name}_mbox_{what}'
            yield conv(top, bottom, PRIORS * outputs, 3, lr, 1, 1)
            yield layer(
                f'{top}_perm',
                'Permute',
                top,
                f'{top}_perm',
                'permute_param { order: 0 order: 2 order: 3 order: 1 }',
            )
            yield layer(f'{top}_flat', 'Flatten', f'{top}_perm', f'{top}_flat', 'flatten_param { axis: 1 }')
        yield layer(
            f'{name}_mbox_priorbox',
            'PriorBox',
            f'{bottom} data',
            f'{name}_mbox_priorbox',
            _priors(i, stride, size),
        )
    for what, axis in (('loc', 1), ('conf', 1), ('priorbox', 2)):
        each = ' '.join(f'{name}_mbox_{what}' + ('' if what == 'priorbox' else '_flat') for name in MAPS)
        yield layer(f'mbox_{what}', 'Concat', each, f'mbox_{what}', f'concat_param {{ axis: {axis} }}')


def _priors(i, stride, size):
    return (
        f'prior_box_param {{ min_size: {SIDES[i] * size:g} max_size: {SIDES[i + 1] * size:g} aspect_ratio: 2 flip: true '
        f'clip: false {VARIANCES} step: {stride} offset: 0.5 }}'
    )


def _loss(classes):
    return layer(
        'mbox_loss',
        'MultiBoxLoss',
        'mbox_loc mbox_conf mbox_priorbox label',
        'mbox_loss',
        'propagate_down: true propagate_down: true propagate_down: false propagate_down: false',
        'loss_param { normalization: VALID }',
        f'multibox_loss_param {{ loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX loc_weight: 1 num_classes: {classes} '
        'share_location: true match_type: PER_PREDICTION overlap_threshold: 0.5 use_prior_for_matching: true '
        'background_label_id: 0 use_difficult_gt: true neg_pos_ratio: 3 neg_overlap: 0.5 code_type: CENTER_SIZE '
        'ignore_cross_boundary_bbox: false mining_type: MAX_NEGATIVE }',
    )


def _detector(classes, size):
    """From data to detection_out (1, 1, D, 7)."""
    yield from _trunk(None)
    yield from _heads(classes, size, None)
    shape = f'reshape_param {{ shape {{ dim: 0 dim: -1 dim: {classes} }} }}'
    yield layer('mbox_conf_reshape', 'Reshape', 'mbox_conf', 'mbox_conf_reshape', shape)
    yield layer(
        'mbox_conf_softmax', 'Softmax', 'mbox_conf_reshape', 'mbox_conf_softmax', 'softmax_param { axis: 2 }'
    )
    yield layer(
        'mbox_conf_flatten', 'Flatten', 'mbox_conf_softmax', 'mbox_conf_flatten', 'flatten_param { axis: 1 }'
    )
    yield layer(
        'detection_out',
        'DetectionOutput',
        'mbox_loc mbox_conf_flatten mbox_priorbox',
        'detection_out',
        f'detection_output_param {{ num_classes: {classes} share_location: true background_label_id: 0 '
        'nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01 }',
    )


def _score(data, classes):
    return layer(
        'detection_eval',
        'DetectionEvaluate',
        'detection_out label',
        'detection_eval',
        f'detection_evaluate_param {{ num_classes: {classes} background_label_id: 0 overlap_threshold: 0.5 '
        f'evaluate_difficult_gt: false name_size_file: "{data.sizes}" }}',
    )


def _solver(folder, data, max_iters, rate):
    """Adam; the rate falls to a tenth after four fifths. Four tests, each with mean AP."""
    return (
        f'train_net: "{folder}/train.prototxt"\ntest_net: "{folder}/test.prototxt"\n'
        f'test_iter: {data.tested}\ntest_interval: {max(1, max_iters // 4)}\ntest_initialization: false\n'
        'eval_type: "detection"\nap_version: "11point"\nshow_per_class_result: true\n'
        f'type: "Adam"\nbase_lr: {rate:g}\nmomentum: 0.9\nmomentum2: 0.999\nweight_decay: 0.0005\n'
        f'lr_policy: "multistep"\ngamma: 0.1\nstepvalue: {max_iters * 4 // 5}\nmax_iter: {max_iters}\n'
        f'display: 20\naverage_loss: 20\nsnapshot: {max(1, max_iters // 2)}\nsnapshot_prefix: "{folder}/ssd"\n'
    )

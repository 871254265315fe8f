"""Small cases of the layer types that forks of Caffe added, for layer_cases.check_layer."""

import numpy as np

from layer_cases import CLASS_WEIGHTS, FILL, ROIS, case, distinct, fixed, positive, whole, x

PRIORS = 'prior_box_param { min_size: 8 min_size: 20 max_size: 15 max_size: 40 aspect_ratio: 2 %s }'
DETECT = 'num_classes: 3 code_type: CENTER_SIZE nms_param { nms_threshold: 0.4 top_k: 9 } keep_top_k: 5'
DETECT = f'detection_output_param {{ {DETECT} confidence_threshold: 0.5 }}'
REGIONS = fixed(
    [[0, 0, 0, 61, 40], [1, 16, 8, 90, 70], [1, 40, 40, 30, 30], [0, 300, 300, 400, 400], [0, 21, 7, 24, 41]]
)
FEW = fixed([[0, 0, 0, 61, 40], [0, 16, 8, 90, 70], [0, 21, 7, 24, 41]])
OHEM = (
    fixed([[0, 0, 0, 9, 9], [1, 0, 0, 9, 9], [0, 5, 5, 9, 9], [0, 2, 2, 9, 9], [1, 3, 3, 9, 9]]),
    distinct(5),
    whole(4, 5),
    positive(5, 8),
)


def priors(rng):
    """Twelve priors on a grid of 2 x 2, and variances: (1, 2, 48)."""
    y, x = np.mgrid[:2, :2]
    centre = (np.stack([x, y], 2).reshape(-1, 1, 2) + 0.5) / 2
    half = np.array([[0.2, 0.2], [0.15, 0.27], [0.3, 0.13]])
    boxes = np.concatenate([centre - half, centre + half], 2).reshape(1, 1, -1)
    return np.concatenate([boxes, np.tile([0.1, 0.1, 0.2, 0.2], 12).reshape(1, 1, -1)], 1)


def places(count):
    """For each of (2, 3, 2, 3) values another place of `count`, within its channel."""
    return lambda rng: rng.permuted(np.tile(np.arange(count), (2, 3, 1)), axis=2)[:, :, :6].reshape(
        2, 3, 2, 3
    )


OBJECTS = fixed(
    [
        [
            [
                [0, 1, 0, 0.05, 0.1, 0.45, 0.4, 0],
                [0, 2, 0, 0.5, 0.45, 0.9, 1.0, 0],
                [1, 2, 0, 0.1, 0.5, 0.6, 0.8, 1],
                [1, 1, 0, 0.52, 0.1, 0.97, 0.55, 0],
                [-1, 0, 0, 0, 0, 0, 0, 0],
            ]
        ]
    ]
)
FOUND = fixed(
    [[[[0, 1, 0.9, 0.05, 0.1, 0.4, 0.4], [1, 1, 0.5, 0.5, 0.1, 0.9, 0.5], [1, 2, 0.3, 0, 0, 1, 1]]]]
)


def multibox(more, locations=48, classes=3, code='CENTER_SIZE', loss=''):
    return case(
        x(2, locations),
        x(2, 12 * classes),
        priors,
        OBJECTS,
        more=f'multibox_loss_param {{ num_classes: {classes} code_type: {code} {more} }} {loss}',
    )


CASES = {
    'Axpy': [case(x(2, 3), x(2, 3, 2, 4), x(2, 3, 2, 4)), case(x(2, 3, 1, 1), x(2, 3, 2, 4), x(2, 3, 2, 4))],
    'BN': [
        case(x(3, 4, 2, 5), more='bn_param { slope_filler { type: "uniform" min: 1 max: 2 } momentum: 0.8 }'),
        case(x(3, 4, 2, 5), more='bn_param { frozen: true bias_filler { type: "gaussian" } }'),
        case(x(3, 4, 2, 5), more='bn_param { scale_filler { value: 1.5 } shift_filler { value: 0.1 } }'),
        case(x(3, 4, 2, 5), more='bn_param { bn_mode: INFERENCE scale_filler { type: "gaussian" } }'),
    ],
    'BoxAnnotatorOHEM': [
        case(*OHEM, tops=2, more='box_annotator_ohem_param { roi_per_img: 2 ignore_label: -1 }')
    ],
    'GroupNorm': [
        case(x(3, 4, 2, 5), more='group_norm_param { group_num: 2 eps: 0.01 }'),
        case(x(3, 4), more='group_norm_param { group_num: 2 affine: true scale_filler { value: 2 } }'),
        case(x(2, 6, 3), more='group_norm_param { group: 3 bias_filler { type: "gaussian" } }'),
    ],
    'ConvolutionDeformable': [
        case(
            x(1, 4, 3, 4),
            x(1, 16, 2, 3),
            more='deformable_convolution_param { num_output: 2 kernel_size: 2 stride: 2 pad: 1 group: 2 '
            'deformable_group: 2 %s }' % FILL,
        ),
        case(
            x(2, 2, 3, 4),
            x(2, 4, 1, 6),
            positive(2, 2, 1, 6),
            more='deformable_convolution_param { num_output: 2 kernel_h: 2 kernel_w: 1 dilation: 2 pad_w: 1 '
            'bias_term: false %s }' % FILL,
        ),
    ],
    'ConvolutionDepthwise': [
        case(x(2, 4, 5, 6), more='convolution_param { num_output: 4 kernel_size: 3 pad: 1 %s }' % FILL)
    ],
    'DeformableConvolution': [
        case(
            x(1, 1, 2, 3),
            x(1, 2, 2, 3),
            more='deformable_convolution_param { num_output: 2 kernel_size: 1 %s }' % FILL,
        )
    ],
    'DeformablePSROIPooling': [
        case(
            x(1, 8, 4, 4),
            FEW,
            x(3, 4, 2, 2),
            more='deformable_psroi_pooling_param { spatial_scale: 0.06 output_dim: 2 group_size: 2 pooled_size: 3 '
            'part_size: 2 sample_per_part: 3 trans_std: 0.1 }',
        ),
        case(
            x(1, 8, 4, 4),
            FEW,
            more='deformable_psroi_pooling_param { spatial_scale: 0.06 output_dim: 2 group_size: 2 no_trans: true }',
        ),
    ],
    'DepthwiseConvolution': [
        case(
            x(2, 4, 5, 6),
            more='convolution_param { num_output: 8 kernel_size: 3 stride: 2 bias_term: false %s }' % FILL,
        ),
        case(x(2, 4, 5, 6), more='convolution_param { num_output: 4 kernel_size: 3 group: 2 %s }' % FILL),
    ],
    'DetectionEvaluate': [case(FOUND, OBJECTS, more='detection_evaluate_param { num_classes: 3 }')],
    'DetectionOutput': [case(x(2, 48), positive(2, 36), priors, more=DETECT)],
    'FocalLoss': [
        case(x(4, 5), whole(5, 4)),
        case(
            x(2, 5, 3),
            whole(5, 2, 3),
            tops=2,
            more='focal_loss_param { gamma: 0.7 alpha: 0.5 } loss_param { ignore_label: 1 }',
        ),
        case(
            x(4, 5),
            whole(5, 4),
            more='focal_loss_param { type: LINEAR gamma: 3 beta: 0.5 } loss_param { %s }' % CLASS_WEIGHTS,
        ),
    ],
    'HSwish': [case(x(2, 3, 4))],
    'HardSwish': [case(distinct(2, 3, 4))],
    'Interp': [
        case(x(2, 3, 4, 5), more='interp_param { height: 7 width: 3 }'),
        case(x(2, 3, 4, 5), more='interp_param { zoom_factor: 3 pad_beg: -1 }'),
        case(x(2, 3, 6, 5), more='interp_param { shrink_factor: 2 }'),
        case(x(2, 3, 6, 5), x(1, 2, 7, 3), more='interp_param { use_blob_size: true }'),
        case(x(2, 3, 7, 6), more='interp_param { shrink_factor: 3 zoom_factor: 2 pad_end: -1 }'),
        case(x(2, 3, 4, 3), x(1, 2, 7, 5), more='interp_param { use_blob_size: true mode: NEAREST }'),
        case(x(2, 3, 4, 3), x(1, 2, 7, 5), more='interp_param { use_blob_size: true align_corners: false }'),
    ],
    'Mish': [case(x(2, 3, 4))],
    'MultiBoxLoss': [
        multibox('', loss='loss_param { normalization: VALID }'),
        multibox(
            'loc_loss_type: L2 conf_loss_type: LOGISTIC loc_weight: 2 match_type: BIPARTITE',
            loss='loss_param { normalization: FULL }',
        ),
        multibox(
            'mining_type: NONE use_difficult_gt: false',
            code='CORNER',
            loss='loss_param { normalization: BATCH_SIZE }',
        ),
        multibox(
            'mining_type: HARD_EXAMPLE sample_size: 4 encode_variance_in_target: true', code='CORNER_SIZE'
        ),
        multibox('mining_type: NONE share_location: false', locations=144),
        multibox('mining_type: NONE share_location: false use_prior_for_matching: false', locations=144),
        multibox(
            'bp_inside: true ignore_cross_boundary_bbox: true neg_pos_ratio: 2 '
            'nms_param { nms_threshold: 0.3 } use_prior_for_nms: true'
        ),
        multibox('map_object_to_agnostic: true', classes=2),
    ],
    'ModulatedDeformableConvolution': [
        case(
            x(1, 2, 3, 2),
            x(1, 8, 2, 1),
            positive(1, 4, 2, 1),
            more='modulated_deformable_convolution_param { num_output: 2 kernel_size: 2 %s }' % FILL,
        )
    ],
    'Normalize': [
        case(x(2, 3, 4, 5)),
        case(
            x(2, 3, 4),
            more='norm_param { across_spatial: false channel_shared: false scale_filler { value: 20 } }',
        ),
    ],
    'PSROIAlign': [
        case(
            x(1, 8, 4, 4),
            FEW,
            more='psroi_align_param { spatial_scale: 0.06 output_dim: 2 group_size: 2 sampling_ratio: 0 }',
        )
    ],
    'PSROIPooling': [
        case(
            x(2, 8, 5, 6),
            REGIONS,
            more='psroi_pooling_param { spatial_scale: 0.0625 output_dim: 2 group_size: 2 }',
        )
    ],
    'Permute': [
        case(x(2, 3, 4, 5), more='permute_param { order: 0 order: 2 order: 3 order: 1 }'),
        case(x(2, 3, 4), more='permute_param { order: 2 }'),
    ],
    'PriorBox': [
        case(
            x(2, 3, 2, 3),
            x(1, 1, 40, 50),
            more=PRIORS % 'clip: true variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2',
        ),
        case(
            x(2, 3, 2, 3),
            x(1, 1, 40, 50),
            more=PRIORS % 'flip: false step: 16 img_h: 32 img_w: 48 variance: 0.3',
        ),
    ],
    'Proposal': [
        case(
            positive(2, 12, 4, 5),
            x(2, 24, 4, 5),
            fixed([[64, 80, 1]]),
            tops=2,
            more='proposal_param { ratio: 0.5 ratio: 1 ratio: 2 scale: 1 scale: 2 min_size: 4 '
            'pre_nms_topn: 60 post_nms_topn: 10 }',
        )
    ],
    'ROIAlign': [
        case(
            x(2, 3, 5, 6), REGIONS, more='roi_align_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625 }'
        ),
        case(
            x(2, 3, 5, 6),
            ROIS,
            more='roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 sampling_ratio: 0 }',
        ),
        case(
            x(2, 3, 5, 6),
            REGIONS,
            more='roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.06 sampling_ratio: 0 aligned: true }',
        ),
        case(
            x(2, 3, 5, 6),
            REGIONS,
            more='roi_align_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.06 corners: true }',
        ),
        case(
            x(2, 3, 5, 6),
            REGIONS,
            more='roi_align_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.06 sampling_ratio: 3 aligned: true }',
        ),
    ],
    'ROICrop': [
        case(x(2, 3, 5, 6), REGIONS, more='roi_crop_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.06 }'),
        case(
            distinct(2, 3, 5, 6),
            ROIS,
            more='roi_crop_param { pooled_h: 2 pooled_w: 1 spatial_scale: 0.06 max_pool: true }',
        ),
    ],
    'ReLU6': [case(lambda rng: rng.uniform(-4, 10, (2, 3, 4)))],
    'ShuffleChannel': [case(x(2, 6, 3, 2), more='shuffle_channel_param { group: 3 }')],
    'SmoothL1LossOHEM': [
        case(x(4, 8), x(4, 8), tops=2),
        case(
            x(4, 8, 1, 1),
            x(4, 8, 1, 1),
            whole(2, 4, 8, 1, 1),
            tops=2,
            more='loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }',
        ),
    ],
    'SoftmaxWithLossOHEM': [
        case(x(4, 5), whole(5, 4), tops=3),
        case(x(2, 5, 3), whole(5, 2, 3), more='loss_param { ignore_label: 1 %s }' % CLASS_WEIGHTS),
    ],
    'Unpooling': [
        case(x(2, 3, 2, 3), places(24), more='unpooling_param { kernel_size: 2 stride: 2 }'),
        case(x(2, 3, 2, 3), more='unpooling_param { unpool: AVE kernel_size: 3 stride: 2 pad: 1 }'),
        case(
            x(2, 3, 2, 3),
            more='unpooling_param { unpool: TILE kernel_h: 2 kernel_w: 3 stride: 2 unpool_h: 5 unpool_w: 6 }',
        ),
    ],
    'Upsample': [
        case(x(2, 3, 2, 3), more='upsample_param { scale: 2 }'),
        case(x(2, 3, 2, 3), places(15), more='upsample_param { scale: 2 pad_out_h: true pad_out_w: true }'),
    ],
}

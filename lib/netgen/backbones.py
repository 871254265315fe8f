"""The backbones, and their registry: a row of BACKBONES is all that a new one needs.

`lr` is how a part learns, see netgen.layers; `bn` is the same for BatchNorm and Scale.
"""

from dataclasses import dataclass, replace
from functools import partial

from netgen.layers import (
    FeatureMap,
    conv,
    group_norm,
    inner_product,
    layer,
    moves,
    normed_conv,
    pool,
    rates,
    relu,
)
from netgen.necks import NECKS

GAMMA = 0.002  # see ResNet.gamma


@dataclass(frozen=True)
class Backbone:
    """A net cut in two: trunk(lr), shared, ends in the blobs of `maps`; head(bottom, lr, bn), on RoIs pooled
    to pooled x pooled, in the blob `head_top`. roi_head: the name in HEADS of what judges regions, where it has no R-FCN;
    mask_head: in MASK_HEADS of what masks them, if it can, with mask_outputs channels."""

    prefix: str  # of snapshots
    base_lr: float = 0.001
    rpn_conv: str = 'rpn_conv/3x3'
    rpn_relu: str = 'rpn_relu/3x3'
    rpn_top: str = 'rpn/output'
    rpn_outputs: int = 512
    rfcn_outputs: int = 0  # channels between the dilated last stage and R-FCN's maps; 0: it has no such stage
    rfcn_std: float | None = (
        0.01  # of the Gaussian that fills the convolution that makes them; None: He et al.
    )
    scales: tuple = (8, 16, 32)  # of anchors: their sides in 16 pixels, or in strides of a pyramid's level
    mask_outputs: int = 256
    context: bool = False  # regions are judged beside their whole image
    boxes = 'caffe'  # the family of fpn.boxes
    roi_head = 'fast_rcnn'
    mask_head = ''
    is_pyramid = False  # every map has its anchors


@dataclass(frozen=True)
class ResNet(Backbone):
    """He et al. 2015 (arXiv 1512.03385), table 1: conv1 to res4 are shared, res5 runs on every RoI.

    For R-FCN res5 runs on the whole image too: dilated, at the stride of res4.

    Layers have the names, and blocks the stride (in the first 1x1), of the nets that its authors published.
    torchvision: the stride is in the 3x3, and pool1 is padded and rounds down. padded: so is pool1 of others. late: windows
    of stride 2 begin where TensorFlow's do, at the first pixel or later. conv1, res2 and res3 are frozen (in R-FCN conv1 and
    res2), and so are BatchNorm and Scale everywhere; scratch: everything learns.
    """

    blocks: tuple = (3, 4, 6, 3)  # res2 ... res5
    widths: tuple = (64, 128, 256, 512)
    bottleneck: bool = True  # 1x1, 3x3, 1x1 with 4 times the width; else two 3x3
    conv1_outputs: int = 64
    conv1_bias: bool = False  # the published ResNet-50 has one, ResNet-101 has none
    torchvision: bool = False
    padded: bool = False
    late: bool = False
    scratch: bool = False
    frozen: int = 3  # the last stage that stays as it is
    groups: int = 0  # of GroupNorm in place of BatchNorm
    deformable: int = 0  # parts of the channels whose samples move alone, in res5's 3x3; 0: nothing moves
    modulated: bool = False  # and are weighed (Deformable ConvNets v2)
    rfcn_outputs: int = 1024
    pooled: int = 14
    head_top = 'pool5'
    roi_pool = 'roi_pool'
    mask_head = 'shared'

    @property
    def maps(self):
        return self.stages[2:3]

    @property
    def stages(self):
        """The maps of res2 to res5."""
        return [
            FeatureMap(self.block_names(s)[-1], 2**s, self.widths[s - 2] * self.expansion)
            for s in (2, 3, 4, 5)
        ]

    @property
    def expansion(self):
        return 4 if self.bottleneck else 1

    def block_names(self, stage):
        """res4a, res4b ... or, in the long stages of the deep nets, res4a, res4b1, res4b2 ..."""
        count = self.blocks[stage - 2]
        numbered = count > 3 and max(self.blocks) > 8
        return [f'res{stage}' + (f'b{i}' if i and numbered else 'abcdefgh'[i]) for i in range(count)]

    def trunk(self, lr):
        early = lr if self.scratch else lr and 0
        padding = []
        if (self.torchvision or self.padded) and not self.late:
            padding = ['pad: 1', 'ceil_mode: false']
        lines = [
            *self.unit('conv1', 'data', self.conv1_outputs, 7, 2, early, early, bias=self.conv1_bias),
            relu('conv1_relu', 'conv1'),
            pool('pool1', 'conv1', 'MAX', 3, 2, *padding),
        ]
        lines += self.stage(2, 'pool1', early, early)
        third = early if self.frozen >= 3 else lr
        lines += self.stage(3, self.block_names(2)[-1], third, third)
        return lines + self.stage(4, self.block_names(3)[-1], lr, lr)

    def whole(self, lr):
        """All stages."""
        return self.trunk(lr) + self.stage(5, self.block_names(4)[-1], lr, lr)

    def dilated(self, lr, bn):
        """res5 on res4 -> the lines, the blob."""
        return self.stage(5, self.block_names(4)[-1], lr, bn, dilation=2), self.block_names(5)[-1]

    def head(self, bottom, lr, bn):
        size = (self.pooled + 1) // 2
        return self.stage(5, bottom, lr, bn) + [pool('pool5', self.block_names(5)[-1], 'AVE', size, 1)]

    def stage(self, stage, bottom, lr, bn, dilation=1):
        """The first block of a stage halves the map (not in res2, nor dilated) and projects where it changes
        the shape, or is dilated."""
        lines, width = [], self.widths[stage - 2]
        for i, name in enumerate(self.block_names(stage)):
            stride = 2 if i == 0 and stage > 2 and dilation == 1 else 1
            before = self.conv1_outputs if stage == 2 else self.widths[stage - 3] * self.expansion
            project = i == 0 and (stride > 1 or dilation > 1 or before != width * self.expansion)
            lines += self.block(name, bottom, width, stride, project, lr, bn, dilation)
            bottom = name
        return lines

    def block(self, name, bottom, width, stride, project, lr, bn, dilation):
        lines, shortcut = [], bottom
        if project:
            shortcut = name + '_branch1'
            lines += self.unit(shortcut, bottom, width * self.expansion, 1, stride, lr, bn)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        strided = kernels.index(3) if self.torchvision else 0
        for i, kernel in enumerate(kernels):
            last, top = i == len(kernels) - 1, f'{name}_branch2{"abc"[i]}'
            outputs, step = width * (self.expansion if last else 1), stride if i == strided else 1
            moved = self.deformable if kernel == 3 and name.startswith('res5') else 0
            if moved:
                window = 3, lr, step, dilation, dilation
                lines += moves(top, bottom, window, moved, self.modulated)
                bottom += f' {top}_move' + f' {top}_mask' * self.modulated
            lines += self.unit(top, bottom, outputs, kernel, step, lr, bn, dilation=dilation, moved=moved)
            lines += [] if last else [relu(top + '_relu', top)]
            bottom = top
        return lines + [layer(name, 'Eltwise', f'{shortcut} {bottom}', name), relu(name + '_relu', name)]

    def unit(self, name, bottom, outputs, kernel, stride, lr, bn, bias=False, dilation=1, moved=0):
        """Convolution, BatchNorm or GroupNorm, Scale. A window that begins late is one cell larger, whose first row and column
        are 0."""
        larger = self.late and kernel > 1 and stride > 1
        suffix, window = self.suffix(name), (kernel + larger, lr, stride, kernel // 2 * dilation, bias)
        top = name + ('_conv' if self.groups else '')
        convolution = conv(name, bottom, outputs, *window, top=top, dilation=dilation, moved=moved)
        if self.groups:
            norm = group_norm(name, outputs, self.groups, 'gn' + suffix, 'scale' + suffix, lr)
        else:
            norm = self.batch_norm(name, bn)
        return [convolution, *norm]

    def suffix(self, name):
        """Of the names of what normalizes a layer."""
        return name.removeprefix('res') if name.startswith('res') else '_' + name

    def batch_norm(self, name, bn):
        """BatchNorm and Scale, in place."""
        suffix, bn = self.suffix(name), bn if self.scratch else bn and 0
        stats = 'use_global_stats: false moving_average_fraction: 0.99' if bn else 'use_global_stats: true'
        return [
            layer(
                'bn' + suffix,
                'BatchNorm',
                name,
                name,
                rates(bn and 0, 'www'),
                f'batch_norm_param {{ {stats} }}',
            ),
            layer(
                'scale' + suffix,
                'Scale',
                name,
                name,
                rates(bn, 'gg'),
                f'scale_param {{ bias_term: true{self.gamma} }}',
            ),
        ]

    @property
    def gamma(self):
        """Without weights the frozen BatchNorm has variance 0 and multiplies by 1 / sqrt(1e-5): a Scale that
        starts small keeps such a net finite through all its blocks."""
        return '' if self.scratch else f' filler {{ value: {GAMMA} }}'


@dataclass(frozen=True)
class DetNet(ResNet):
    """Li et al. 2018 (arXiv 1804.06215), section 3: a ResNet-50 to res4; res5 and res6 keep its stride and width, with
    dilated 3x3, and a 1x1 on the shortcut of their first block. torchvision's strides, as in guoruoqian/DetNet_pytorch."""

    blocks: tuple = (3, 4, 6, 3, 3)  # res2 ... res6
    widths: tuple = (64, 128, 256, 256, 256)
    torchvision: bool = True
    frozen: int = 2

    @property
    def stages(self):
        """The maps of res2 to res6."""
        widths = [width * self.expansion for width in self.widths]
        return [
            FeatureMap(self.block_names(s)[-1], min(2**s, 16), width) for s, width in enumerate(widths, 2)
        ]

    def whole(self, lr):
        lines = self.trunk(lr)
        for s in 5, 6:
            lines += self.stage(s, self.block_names(s - 1)[-1], lr, lr, dilation=2)
        return lines


@dataclass(frozen=True)
class PlainNet(Backbone):
    """Convolutions and pooling, then fc6 and fc7 on every RoI."""

    maps: tuple = ()
    pooled: int = 7
    roi_pool: str = 'roi_pool5'
    widths: tuple = (4096, 4096)  # of fc6 and fc7
    dropout: str = 'dropout_ratio: 0.5'
    head_top = 'fc7'

    def head(self, bottom, lr, bn):
        return fully_connected(bottom, self.widths, lr, self.dropout)


def fully_connected(bottom, widths, lr, dropout='', prefix='', norm=None):
    """fc6 and fc7, or fc6 alone; prefix: of their names. norm: makes what stands before the ReLU of each, of its name."""
    lines = []
    for i, width in zip('67', widths):
        top = f'{prefix}fc{i}'
        lines += [
            inner_product(top, bottom, width, lr, 'type: "xavier"'),
            *(norm(top) if norm else []),
            relu(f'{prefix}relu{i}', top),
        ]
        if dropout and lr != 0:
            lines.append(layer('drop' + i, 'Dropout', top, top, f'dropout_param {{ {dropout} }}'))
        bottom = top
    return lines


class VGG16(PlainNet):
    """Simonyan and Zisserman 2014 (arXiv 1409.1556), configuration D. conv1_1 to conv2_2 are frozen."""

    def trunk(self, lr):
        lines, bottom = [], 'data'
        for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
            learn = lr if stage > 2 else lr and 0
            for i in range(1, count + 1):
                top = f'conv{stage}_{i}'
                lines += [conv(top, bottom, width, 3, learn, pad=1), relu(f'relu{stage}_{i}', top)]
                bottom = top
            if stage < 5:
                bottom = f'pool{stage}'
                lines.append(pool(bottom, top, 'MAX', 2, 2))
        return lines


@dataclass(frozen=True)
class FiveLayers(PlainNet):
    """Five convolutions, the first two followed by local response normalization and pooling.

    ZF: Zeiler and Fergus 2013 (arXiv 1311.2901), as in SPP-net; nothing is frozen, Dropout scales at test.
    VGG_CNN_M_1024: Chatfield et al. 2014 (arXiv 1405.3531); conv1 is frozen.
    """

    convs: tuple = ()  # outputs, kernel, stride, pad of conv1 ... conv5
    norm: str = ''
    pool_pad: tuple = ()
    frozen: tuple = ()

    def trunk(self, lr):
        lines, bottom = [], 'data'
        for i, (outputs, kernel, stride, pad) in enumerate(self.convs, 1):
            top = f'conv{i}'
            learn = lr and 0 if top in self.frozen else lr
            lines += [conv(top, bottom, outputs, kernel, learn, stride, pad), relu(f'relu{i}', top)]
            bottom = top
            if i < 3:
                bottom = f'pool{i}'
                lines += [
                    layer(f'norm{i}', 'LRN', top, f'norm{i}', f'lrn_param {{ {self.norm} }}'),
                    pool(bottom, f'norm{i}', 'MAX', 3, 2, *self.pool_pad),
                ]
        return lines


@dataclass(frozen=True)
class Pyramid(Backbone):
    """All stages of a ResNet and a neck that joins their maps; 3x3 convolutions, if any, and two fully connected layers run
    on RoIs, which are pooled from all of `pooled_maps`. One whose body has GroupNorm has it in the neck too, and behind
    these convolutions (Wu and He, 2018, section 4.2); where a body with BatchNorm starts from nothing, so do these layers, and
    BatchNorm is behind each (He et al., 2018, arXiv 1811.08883, section 3)."""

    body: ResNet | None = None
    weights: str = ''  # the net whose ImageNet weights it starts from
    neck: str = 'FPN'  # a name of NECKS
    channels: int = 256  # of its maps
    boxes: str = 'torchvision'
    scales: tuple = (8,)
    rpn_outputs: int = 256
    pooled: int = 7
    widths: tuple = (1024, 1024)  # of fc6 and fc7
    rpn_pairs: bool = False  # an anchor has a score of background and one of object, not a logit
    roi_layer: str = 'align'  # what pools RoIs, a name of heads.ROI_LAYERS
    mask_pooled: int = 14  # cells of a side of what masks are told from
    roi_head: str = 'pyramid'
    convs: int = 0  # 3x3 convolutions before fc6
    roi_pool = 'roi_pool'
    mask_head = 'pyramid'
    is_pyramid = True

    @property
    def scratch(self):
        return self.body.scratch

    @property
    def head_top(self):
        return f'fc{5 + len(self.widths)}'

    @property
    def joined(self):
        norm = {'groups': self.body.groups} if self.body.groups else {}
        return NECKS[self.neck](self.body.stages, self.channels, **norm)

    @property
    def maps(self):
        return self.joined.maps

    @property
    def pooled_maps(self):
        return self.joined.pooled_maps

    def trunk(self, lr):
        return self.body.whole(lr) + self.joined.lines(lr)

    def head(self, bottom, lr, bn, prefix=''):
        """prefix: of all names, where there are several."""
        lines, groups = [], self.body.groups
        norm = partial(self.body.batch_norm, bn=lr) if self.scratch and not groups else None
        for i in range(1, self.convs + 1):
            top, shape = f'{prefix}head_conv{i}', (self.channels, 3, lr)
            if groups:
                lines += normed_conv(top, bottom, *shape, groups)
            else:
                lines += [conv(top, bottom, *shape, pad=1), *(norm(top) if norm else [])]
            lines.append(relu(f'{top}_relu', top))
            bottom = top
        return lines + fully_connected(bottom, self.widths, lr, prefix=prefix, norm=norm)


@dataclass(frozen=True)
class DetNetPyramid(Pyramid):
    """As guoruoqian/DetNet_pytorch has it: fc6 and fc7 are convolutions, fc6 of all that is pooled."""

    neck: str = 'DetNet'
    boxes: str = 'detnet'
    scales: tuple = ((8,), (8,), (8,), (16,), (32,))  # of each level: 32 to 512 pixels
    rpn_outputs: int = 512
    pooled: int = 14
    rpn_pairs: bool = True
    roi_layer: str = 'corners'

    def head(self, bottom, lr, bn):
        fc6, fc7 = self.widths
        return [
            conv('fc6', bottom, fc6, self.pooled, lr, stride=self.pooled, std=0.02),
            relu('relu6', 'fc6'),
            conv('fc7', 'fc6', fc7, 1, lr, std=0.02),
            relu('relu7', 'fc7'),
        ]


@dataclass(frozen=True)
class C4(ResNet):
    """A ResNet with anchors and RoIs of res4 as a pyramid's level has them, by a family of fpn.boxes."""

    boxes: str = 'tensorpack_c4'
    weights: str = ''  # as Pyramid's
    scales: tuple = (2, 4, 8, 16, 32)
    rpn_outputs: int = 1024
    rfcn_outputs: int = 0
    frozen: int = 2
    roi_layer: str = 'aligned'
    rpn_pairs = False
    roi_head = 'c4'
    is_pyramid = True

    @property
    def body(self):
        return self


RESNET10 = ResNet(
    'resnet10',
    base_lr=0.01,
    rpn_outputs=256,
    blocks=(1, 1, 1, 1),
    conv1_outputs=32,
    widths=(32, 64, 128, 256),
    bottleneck=False,
    scratch=True,
    rfcn_outputs=256,
    rfcn_std=None,  # from nothing, small weights would learn too slowly
    pooled=7,
    mask_outputs=64,
)


RESNET10_FPN = Pyramid(
    'resnet10_fpn',
    base_lr=0.01,
    body=RESNET10,
    channels=64,
    boxes='caffe',
    rpn_outputs=64,
    mask_outputs=64,
    convs=2,
    widths=(256, 256),
)
# From nothing, as in He et al. 2018 (arXiv 1811.08883): GroupNorm in body, neck and a head of four convolutions
GROUPED50 = Pyramid(
    'resnet50_fpn_gn',
    base_lr=0.01,
    body=ResNet('resnet50', torchvision=True, scratch=True, groups=32),
    widths=(1024,),
    convs=4,
)


def with_cascade(name, net):
    """Rows of BACKBONES: the net, and the same with a cascade of heads."""
    return {name: net, f'{name}-Cascade': replace(net, prefix=f'{net.prefix}_cascade', roi_head='cascade')}


def torchvision_pyramid(prefix, weights='', **body):
    """torchvision's fasterrcnn_resnet*_fpn: conv1, res2 and all statistics are as ImageNet left them."""
    body = ResNet(prefix, torchvision=True, frozen=2, **body)
    return Pyramid(prefix + '_fpn', body=body, weights=weights)


def caffe_pyramid(prefix, weights, **body):
    """From the nets that ResNet's authors published, with Caffe's boxes: conv1, res2 and all statistics stay."""
    return Pyramid(prefix + '_fpn', body=ResNet(prefix, frozen=2, **body), weights=weights, boxes='caffe')


def of_others(depth, **body):
    """The nets whose weights tensorpack and Detectron publish -> rows of BACKBONES."""
    prefix, rows = f'resnet{depth}', {}
    for name, how, align, weights in (
        (
            'tensorpack',
            {'torchvision': True, 'padded': True},
            ('aligned', 'aligned'),
            f'ResNet-{depth}-torchvision',
        ),
        ('Detectron', {'padded': True, 'conv1_bias': depth == 50}, ('align', 'adaptive'), f'ResNet-{depth}'),
    ):
        family, fpn = name.lower(), ResNet(prefix, frozen=2, **body, **how)
        pyramid = Pyramid(prefix + '_fpn', body=fpn, weights=weights, boxes=family, roi_layer=align[0])
        rows |= with_cascade(f'ResNet-{depth}-FPN-{name}', pyramid)
        rows[f'ResNet-{depth}-C4-{name}'] = C4(
            prefix + '_c4', boxes=family + '_c4', weights=weights, roi_layer=align[1], **body, **how
        )
    return rows


BACKBONES = {
    'ResNet-101': ResNet('resnet101', blocks=(3, 4, 23, 3)),
    'ResNet-50': ResNet('resnet50', conv1_bias=True),
    'ResNet-101-torchvision': ResNet('resnet101', blocks=(3, 4, 23, 3), torchvision=True),
    'ResNet-50-torchvision': ResNet('resnet50', torchvision=True),
    'ResNet-10': RESNET10,
    'ResNet-18-FPN': torchvision_pyramid(
        'resnet18', 'ResNet-18-torchvision', blocks=(2, 2, 2, 2), bottleneck=False
    ),
    'ResNet-34-FPN': torchvision_pyramid('resnet34', 'ResNet-34-torchvision', bottleneck=False),
    **with_cascade('ResNet-50-FPN', torchvision_pyramid('resnet50', 'ResNet-50-torchvision')),
    **with_cascade('ResNet-50-FPN-GN', GROUPED50),
    'ResNet-101-FPN': torchvision_pyramid('resnet101', 'ResNet-101-torchvision', blocks=(3, 4, 23, 3)),
    'ResNet-50-FPN-caffe': caffe_pyramid('resnet50', 'ResNet-50', conv1_bias=True),
    'ResNet-101-FPN-caffe': caffe_pyramid('resnet101', 'ResNet-101', blocks=(3, 4, 23, 3)),
    **of_others(50),
    **of_others(101, blocks=(3, 4, 23, 3)),
    'DetNet-59-FPN': DetNetPyramid('detnet59_fpn', body=DetNet('detnet59'), weights='DetNet-59'),
    **with_cascade('ResNet-10-FPN', RESNET10_FPN),
    **with_cascade(
        'ResNet-10-FPN-GN',
        replace(RESNET10_FPN, prefix='resnet10_fpn_gn', body=replace(RESNET10, groups=32), convs=0),
    ),
    'VGG16': VGG16('vgg16', maps=(FeatureMap('conv5_3', 16, 512),)),
    'VGG_CNN_M_1024': FiveLayers(
        'vgg_cnn_m_1024',
        rpn_outputs=256,
        maps=(FeatureMap('conv5', 16, 512),),
        pooled=6,
        widths=(4096, 1024),
        convs=((96, 7, 2, 0), (256, 5, 2, 1), (512, 3, 1, 1), (512, 3, 1, 1), (512, 3, 1, 1)),
        norm='local_size: 5 alpha: 0.0005 beta: 0.75 k: 2',
        frozen=('conv1',),
    ),
    'ZF': FiveLayers(
        'zf',
        rpn_conv='rpn_conv1',
        rpn_relu='rpn_relu1',
        rpn_top='rpn_conv1',
        rpn_outputs=256,
        maps=(FeatureMap('conv5', 16, 256),),
        pooled=6,
        roi_pool='roi_pool_conv5',
        convs=((96, 7, 2, 3), (256, 5, 2, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1)),
        norm='local_size: 3 alpha: 0.00005 beta: 0.75 norm_region: WITHIN_CHANNEL',
        pool_pad=('pad: 1',),
        dropout='dropout_ratio: 0.5 scale_train: false',
    ),
}

# With deformable convolutions in res5 (Dai et al. 2017, section 4.2; v2: Zhu et al. 2019): named as those below
DEFORMABLE = {'-DCN': {'deformable': 4}, '-DCNv2': {'deformable': 4, 'modulated': True}}


def with_moves(net, suffix):
    """The ResNet, or the pyramid on one, with DEFORMABLE[suffix]."""
    how = DEFORMABLE[suffix]
    how = {'body': replace(net.body, **how)} if isinstance(net, Pyramid) else how
    return replace(net, prefix=net.prefix + suffix.lower().replace('-', '_'), **how)


RESNETS = [f'ResNet-{depth}{neck}' for neck in ('', '-FPN') for depth in (101, 50, 10)]
BACKBONES.update(
    {name + suffix: with_moves(BACKBONES[name], suffix) for name in RESNETS for suffix in DEFORMABLE}
)

# With global context (He et al. 2015, appendix B): named after the net whose weights they start from
CONTEXT = '-Context'
BACKBONES.update(
    {
        name + CONTEXT: replace(BACKBONES[name], prefix=BACKBONES[name].prefix + '_context', context=True)
        for name in (*RESNETS, 'VGG16')
    }
)


def weights_of(name):
    """The name of the net whose ImageNet weights this one starts from."""
    for suffix in (CONTEXT, *DEFORMABLE):
        name = name.removesuffix(suffix)
    return getattr(BACKBONES.get(name), 'weights', '') or name


def starting_from(weights):
    """The nets that start from these weights."""
    return [name for name, net in BACKBONES.items() if weights in (name, getattr(net, 'weights', ''))]

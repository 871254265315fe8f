"""Weights of others that tools/fetch.py downloads, where a program can, and converts to a .caffemodel."""

from typing import NamedTuple

TORCHVISION = 'https://download.pytorch.org/models/'
PAGE = 'https://pytorch.org/vision/stable/models.html'
LICENCE = "torchvision's BSD-3-Clause; trained on {}, which has terms of its own"


class Public(NamedTuple):
    """becomes: the name of what it is converted to, of which nets start (netgen.backbones.starting_from), or of a detector's
    net. file: its name. size in bytes and digest (algorithm, hexadecimal digits, all or the first): None where they are not
    known; so are a licence, and an address that a program could download from. target: below data/, None: as import_weights
    has it."""

    about: str
    page: str
    licence: str
    file: str
    url: str = None
    size: int = None
    digest: tuple = None
    target: str = None
    arguments: tuple = ()  # of import_weights
    becomes: str = None


def _torchvision(about, file, becomes, size=None, data='ImageNet', **more):
    """The names of torchvision's files end in the first digits of their sha256."""
    digest = 'sha256', file.rsplit('-', 1)[1].removesuffix('.pth')
    url = TORCHVISION + file
    return Public(about, PAGE, LICENCE.format(data), file, url, size, digest, becomes=becomes, **more)


def _coco(about, file, becomes, target):
    return _torchvision(
        about + ', COCO (COCO_V1), of the 80 classes that there are',
        file,
        becomes,
        data='COCO',
        target=f'faster_rcnn_models/{target}.caffemodel',
        arguments=('--eps', '0', '--coco'),
    )


def _of(about, page, file, folder, becomes, *arguments):
    """Of a project that says nothing of its weights' licence."""
    return Public(about, page, None, file, folder + file, becomes=becomes, arguments=arguments)


TENSORPACK = 'http://models.tensorpack.com/#FasterRCNN', 'http://models.tensorpack.com/FasterRCNN/'
DETECTRON = 'https://github.com/facebookresearch/Detectron, its MODEL_ZOO.md'
MSRA = 'https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/'
WEIGHTS = {
    'resnet18': _torchvision(
        'ResNet-18, ImageNet', 'resnet18-f37072fd.pth', 'ResNet-18-torchvision', 46830571
    ),
    'resnet34': _torchvision('ResNet-34, ImageNet', 'resnet34-b627a593.pth', 'ResNet-34-torchvision'),
    'resnet50': _torchvision(
        'ResNet-50, ImageNet (IMAGENET1K_V1)', 'resnet50-0676ba61.pth', 'ResNet-50-torchvision', 102530333
    ),
    'resnet101': _torchvision(
        'ResNet-101, ImageNet (IMAGENET1K_V1)', 'resnet101-63fe2227.pth', 'ResNet-101-torchvision'
    ),
    'vgg16': _torchvision('VGG16, ImageNet', 'vgg16-397923af.pth', 'VGG16'),
    'fasterrcnn_resnet50_fpn': _coco(
        'Faster R-CNN with ResNet-50 and FPN',
        'fasterrcnn_resnet50_fpn_coco-258fb6c6.pth',
        'ResNet-50-FPN',
        'ResNet-50-FPN_coco',
    ),
    'maskrcnn_resnet50_fpn': _coco(
        'Mask R-CNN with ResNet-50 and FPN',
        'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth',
        'ResNet-50-FPN',
        'ResNet-50-FPN_masks_coco',
    ),
    'tensorpack_resnet50': _of(
        'ResNet-50 of tensorpack, ImageNet',
        TENSORPACK[0],
        'ImageNet-R50-AlignPadding.npz',
        TENSORPACK[1],
        'ResNet-50-torchvision',
    ),
    'detectron_resnet50': _of(
        'ResNet-50 of its authors, as Detectron has it, ImageNet', DETECTRON, 'R-50.pkl', MSRA, 'ResNet-50'
    ),
    'detectron_resnet101': _of(
        'ResNet-101 of its authors, as Detectron has it, ImageNet', DETECTRON, 'R-101.pkl', MSRA, 'ResNet-101'
    ),
    'detnet59': Public(
        'DetNet-59, ImageNet',
        'https://github.com/guoruoqian/DetNet_pytorch, its README: Pretrained Model',
        None,
        'detnet59.pth',
        becomes='DetNet-59',
    ),
}

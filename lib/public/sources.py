"""Where datasets and archives of weights come from, and what lies here once they are unpacked. No program downloads them: the
addresses have moved more than once, and some want registration or a licence accepted.

archives: (file, address, bytes or None, (algorithm, sum)); an archive is looked for in data/.
lies: path below data/ -> ('files', how many in the folder and those in it), ('lines', how many in the file),
or ('bytes', at least so many: what the weights of its layers take).
"""

from typing import NamedTuple


class Source(NamedTuple):
    """page: the official page, where addresses that no longer answer are to be looked for; unpack: what to do. licence: None
    where it is not known here; fits: of weights, the net, or who takes them."""

    about: str
    page: str
    archives: tuple
    unpack: str
    lies: dict
    licence: str = None
    fits: str = None


VOC = 'http://host.robots.ox.ac.uk/pascal/VOC/'
RBG = 'the scripts data/scripts/fetch_*.sh of https://github.com/rbgirshick/'
VOC_UNPACK = 'each unpacks to VOCdevkit/VOC{0}: make data/VOCdevkit{0} the folder VOCdevkit, or a link to it'


def _devkit(year, images, **lists):
    root = f'VOCdevkit{year}/VOC{year}'
    return {
        f'{root}/JPEGImages': ('files', images),
        f'{root}/Annotations': ('files', images),
        **{f'{root}/ImageSets/Main/{name}.txt': ('lines', count) for name, count in lists.items()},
    }


COCO = 'http://images.cocodataset.org/'
COCO_UNPACK = 'the annotations unpack to annotations: put it in data/coco; the images to train{0} and val{0}: put them in data/coco/images'


def _coco(year, sums, more, **counts):
    """sums: the MD5 of the archives of train, val and annotations; counts: images of each set."""
    files = (
        (f'train{year}.zip', 'zips'),
        (f'val{year}.zip', 'zips'),
        (f'annotations_trainval{year}.zip', 'annotations'),
    )
    return Source(
        f'COCO {year}: {counts["train"]:,} images to train on, {counts["val"]:,} of val, 80 classes',
        'https://cocodataset.org/#download',
        tuple((file, f'{COCO}{at}/{file}', None, ('md5', md5)) for (file, at), md5 in zip(files, sums)),
        COCO_UNPACK.format(year) + more,
        {
            **{f'coco/images/{name}{year}': ('files', count) for name, count in counts.items()},
            f'coco/annotations/instances_train{year}.json': ('bytes', 300000000),
            f'coco/annotations/instances_val{year}.json': ('bytes', 15000000),
        },
    )


SOURCES = {
    'voc_2007': Source(
        'PASCAL VOC 2007: 9,963 images, 20 classes',
        VOC + 'voc2007/',
        (
            (
                'VOCtrainval_06-Nov-2007.tar',
                VOC + 'voc2007/VOCtrainval_06-Nov-2007.tar',
                460032000,
                ('md5', 'c52e279531787c972589f7e41ab4ae64'),
            ),
            (
                'VOCtest_06-Nov-2007.tar',
                VOC + 'voc2007/VOCtest_06-Nov-2007.tar',
                451020800,
                ('md5', 'b6e924de25625d8de591ea690078ad9f'),
            ),
        ),
        VOC_UNPACK.format(2007),
        _devkit(2007, 9963, trainval=5011, test=4952),
    ),
    'voc_2012': Source(
        'PASCAL VOC 2012: 17,125 images, of which 11,540 for detection, 20 classes; the test images are apart',
        VOC + 'voc2012/',
        (
            (
                'VOCtrainval_11-May-2012.tar',
                VOC + 'voc2012/VOCtrainval_11-May-2012.tar',
                1999639040,
                ('md5', '6cd6e144f989b92b3379bac3b3de84fd'),
            ),
        ),
        VOC_UNPACK.format(2012),
        _devkit(2012, 17125, trainval=11540),
    ),
    'imagenet': Source(
        'ILSVRC 2015 object detection: 456,567 images to train on, 20,121 of val, 200 classes',
        'https://image-net.org/challenges/LSVRC/2015/2015-downloads.php (registration)',
        (
            (
                'ILSVRC2015_DET.tar.gz',
                'https://image-net.org/data/ILSVRC/2015/ILSVRC2015_DET.tar.gz',
                None,
                ('sha1', 'cbf602d89f2877fa8843392a1ffde03450a18d38'),
            ),
        ),
        'unpacks to Annotations, Data and ImageSets: make data/ImageNet2015 their folder, or a link to it; then '
        'tools/fetch.py imagenet_val1 and imagenet_val2',
        {
            'ImageNet2015/Data/DET/train': ('files', 456567),
            'ImageNet2015/Data/DET/val': ('files', 20121),
            'ImageNet2015/Annotations/DET/val': ('files', 20121),
            'ImageNet2015/ImageSets/DET/val1.txt': ('lines', 9887),
            'ImageNet2015/ImageSets/DET/val2.txt': ('lines', 9917),
        },
    ),
    'coco_2017': _coco(
        2017,
        (
            'cced6f7f71b7629ddf16f17bbcfab6b2',
            '442b8da7639aecaf257c1dceb8ba8c80',
            'f4bbac642086de4f52a3fdda2de5fa2c',
        ),
        '',
        train=118287,
        val=5000,
    ),
    'coco_2014': _coco(
        2014,
        (
            '0da8cfa0e090c266b78f30e2d2874f1a',
            'a3d79f5ed8d289b7a7554ce06a5782b3',
            '0a379cfc70b0e71301e0f377548639bd',
        ),
        '; instances_minival2014.json and instances_valminusminival2014.json are linked from data/README.md of '
        'https://github.com/rbgirshick/py-faster-rcnn: put them in annotations too',
        train=82783,
        val=40504,
    ),
    'bccd': Source(
        'BCCD: 364 microscope images of blood, 3 classes, MIT licence; train on it with data/bccd.yml',
        'https://github.com/Shenggan/BCCD_Dataset',
        (),
        'clone it; make data/BCCD its folder BCCD, or a link to it',
        {
            'BCCD/JPEGImages': ('files', 364),
            'BCCD/Annotations': ('files', 364),
            'BCCD/ImageSets/Main/trainval.txt': ('lines', 292),
            'BCCD/ImageSets/Main/test.txt': ('lines', 72),
        },
        licence='MIT',
    ),
    'selective_search_data': Source(
        'proposals of selective search for VOC, for Fast R-CNN',
        RBG + 'fast-rcnn',
        (
            (
                'selective_search_data.tgz',
                'https://dl.dropboxusercontent.com/s/orrt7o6bp6ae0tc/selective_search_data.tgz?dl=0',
                None,
                ('md5', '7078c1db87a7851b31966b96774cd9b9'),
            ),
        ),
        'unpacks to selective_search_data, in data/',
        {
            f'selective_search_data/{name}.mat': ('bytes', 1000000)
            for name in ('voc_2007_trainval', 'voc_2007_test')
        },
    ),
    'imagenet_models': Source(
        'weights trained on the 1000 classes of ImageNet, to start from: VGG16, VGG_CNN_M_1024, ZF',
        RBG + 'py-faster-rcnn',
        (
            (
                'imagenet_models.tgz',
                'https://dl.dropbox.com/s/gstw7122padlf0l/imagenet_models.tgz?dl=0',
                None,
                ('md5', 'ed34ca912d6782edfb673a8c3a0bda6d'),
            ),
        ),
        'unpacks to imagenet_models, in data/. VGG_CNN_M_1024 is in the archive of the same name of fast-rcnn',
        {
            'imagenet_models/VGG16.v2.caffemodel': ('bytes', 4 * 134260544),
            'imagenet_models/VGG_CNN_M_1024.v2.caffemodel': ('bytes', 4 * 86225536),
            'imagenet_models/ZF.v2.caffemodel': ('bytes', 4 * 58260608),
        },
        fits='the nets of their names',
    ),
    'resnet_models': Source(
        'weights of the ResNets, by their authors; or of torchvision, by tools/import_weights.py',
        'https://github.com/KaimingHe/deep-residual-networks',
        (),
        'the page leads to ResNet-50-model.caffemodel and so on: put them in data/imagenet_models without `-model`',
        {
            'imagenet_models/ResNet-50.caffemodel': ('bytes', 100000000),
            'imagenet_models/ResNet-101.caffemodel': ('bytes', 178000000),
            'imagenet_models/ResNet-152.caffemodel': ('bytes', 240000000),
        },
        fits='ResNet-50, ResNet-101, and the nets with FPN and C4 that Detectron has: tools/fetch.py --list detectron_resnet50',
    ),
    'faster_rcnn_models': Source(
        'Faster R-CNN trained on VOC 2007 trainval, with VGG16 and with ZF: for tools/demo.py',
        RBG + 'py-faster-rcnn',
        (
            (
                'faster_rcnn_models.tgz',
                'https://dl.dropboxusercontent.com/s/o6ii098bu51d139/faster_rcnn_models.tgz?dl=0',
                None,
                ('md5', 'ac116844f66aefe29587214272054668'),
            ),
        ),
        'unpacks to faster_rcnn_models, in data/',
        {
            'faster_rcnn_models/VGG16_faster_rcnn_final.caffemodel': ('bytes', 4 * 134260544),
            'faster_rcnn_models/ZF_faster_rcnn_final.caffemodel': ('bytes', 4 * 58260608),
        },
        fits='VGG16 and ZF by models/pascal_voc/<net>/faster_rcnn_alt_opt/faster_rcnn_test.pt',
    ),
    'rfcn_models': Source(
        'R-FCN trained on VOC 2007 and 2012 trainval, with ResNet-50 and ResNet-101: for tools/demo.py',
        'https://github.com/YuwenXiong/py-R-FCN, its README: demo',
        (),
        'the page leads to an archive that unpacks to rfcn_models: put it in data/',
        {
            'rfcn_models/resnet50_rfcn_final.caffemodel': ('bytes', 94000000),
            'rfcn_models/resnet101_rfcn_final.caffemodel': ('bytes', 170000000),
        },
        fits='ResNet-50 and ResNet-101 by models/pascal_voc/<net>/rfcn_end2end/test_agnostic.prototxt',
    ),
}

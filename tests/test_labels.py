"""datasets.labels: what labelling programs and other projects leave, in all the ways they do, and what is said of what is wrong."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import check_dataset
from datasets import labels, own
from datasets.labels import outlines
from datasets.labels.labelled import TURNS, shown, stored
from devkits import write, write_coco
from fast_rcnn.config import cfg

CAT = [10.0, 5.0, 30.0, 25.0]  # of a picture of 80 x 60
IN_SHARES = '0.25 0.25 0.25 0.33333333333'


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    (tmp_path / 'set').mkdir()
    return tmp_path / 'set'


def pictures(root, *names, width=80, height=60, turn=1):
    for name in names:
        path = Path(root / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        exif = image.getexif()
        exif[0x0112] = turn
        image.save(path, **({'exif': exif} if turn != 1 else {}))


def objects(found):
    """{image: its objects' names and rounded boxes}"""
    return {
        image: [(thing.name, *np.round(thing.box, 3)) for thing in one.things]
        for image, one in found.images.items()
    }


def load(root, kind, **more):
    """The imdbs of train and of test of a folder by a YAML file with nothing but what is needed."""
    path = write(
        root.parent / 'mine.yml', json.dumps({'name': 'mine', 'format': kind, 'root': 'set', **more})
    )
    described = own.load(path)
    return own.make(described, described.train), own.make(described, described.test)


# YOLO


NAMES = 'names: [dog, cat]\n'
LAYOUTS = {
    'ultralytics': (
        ('images/train/a.png', 'labels/train/a.txt'),
        ('images/val/b.png', 'labels/val/b.txt'),
        'train: images/train\nval: images/val\n' + NAMES,
    ),
    'a path that is not here': (
        ('images/train/a.png', 'labels/train/a.txt'),
        ('images/val/b.png', 'labels/val/b.txt'),
        'path: ../elsewhere\ntrain: images/train\nval: images/val\nnames: {0: dog, 1: cat}\n',
    ),
    'roboflow': (
        ('train/images/a.png', 'train/labels/a.txt'),
        ('valid/images/b.png', 'valid/labels/b.txt'),
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['dog', 'cat']\nroboflow: {license: MIT}\n",
    ),
    'folders alone': (
        ('train/images/a.png', 'train/labels/a.txt'),
        ('test/images/b.png', 'test/labels/b.txt'),
        NAMES,
    ),
    'one folder for both': (('train/a.png', 'train/a.txt'), ('val/b.png', 'val/b.txt'), NAMES),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_yolo_layouts(root, name):
    (image, label), (other, other_label), yaml = LAYOUTS[name]
    pictures(root, image, other)
    write(root / label, f'1 {IN_SHARES}\n\n')
    write(root / other_label, '')
    write(root / 'data.yaml', '\ufeff' + yaml)
    train, test = load(root, 'yolo')
    assert train.classes == ('__background__', 'dog', 'cat')
    assert [train.image_path_at(0), test.image_path_at(0)] == [str(root / image), str(root / other)]
    assert (
        train.gt_roidb()[0]['boxes'].tolist() == [[10, 5, 29, 24]] and len(test.gt_roidb()[0]['boxes']) == 0
    )


def test_yolo_by_lists_names_of_darknet_and_a_picture_without_labels(root):
    """As CVAT exports it; lists have paths of another machine, and of Windows."""
    pictures(root, 'obj_train_data/a.png', 'obj_train_data/new folder/ü b.JPG', 'obj_train_data/c.png')
    write(root / 'obj_train_data/a.txt', f'1 {IN_SHARES}')
    write(root / 'obj.names', 'dog\r\ncat\r\n')
    write(root / 'train.txt', 'data/obj_train_data/a.png\r\n')
    write(root / 'valid.txt', 'C:\\x\\obj_train_data\\new folder\\ü b.JPG\n./obj_train_data/c.png\n')
    found = labels.read('yolo', str(root))
    assert found.splits == {
        'train': ['obj_train_data/a.png'],
        'valid': ['obj_train_data/new folder/ü b.JPG', 'obj_train_data/c.png'],
    }
    assert objects(found)['obj_train_data/a.png'] == [('cat', *CAT)] and found.classes == ['dog', 'cat']


def test_yolo_polygons_and_what_lies_a_little_outside(root):
    pictures(root, 'a.png')
    write(
        root / 'a.txt',
        '0 0.5 0.5 1.004 1.001\n1 0.5 0.5 1.0 0.5 0.75 1.0\n0 0.1 0.1 0.1 0.1 0.93\n0 0.9 0.9 0.4 0.4',
    )
    write(root / 'classes.txt', 'dog\ncat')
    whole, polygon, scored, beyond = labels.read('yolo', str(root)).images['a.png'].things
    assert whole.box == [0, 0, 80, 60] and scored.box == pytest.approx([4, 3, 12, 9])
    assert polygon.box == [40, 30, 80, 60] and polygon.mask == [[40, 30, 80, 30, 60, 60]]
    assert beyond.box == pytest.approx([56, 42, 88, 66])  # which is for the rule of boxes to cut, and to tell


def test_yolo_masks_are_trained_on(root):
    pictures(root, 'train/a.png', 'val/b.png')
    write(root / 'train/a.txt', '1 0.5 0.5 1.0 0.5 0.75 1.0\n')
    write(root / 'data.yaml', NAMES)
    (segm,) = load(root, 'yolo')[0].gt_roidb()[0]['segms']
    assert segm['size'] == [60, 80]


# EXIF


@pytest.mark.parametrize('turn', TURNS)
def test_points_of_what_is_shown_and_what_is_stored(turn):
    """Pillow turns the picture, we the point."""
    from PIL import ImageOps

    pixels = np.zeros((6, 9), np.uint8)
    pixels[1, 7] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    image.save(stream, 'png', exif=exif)
    y, x = np.argwhere(np.array(ImageOps.exif_transpose(Image.open(stream))))[0]
    assert stored([x + 0.5, y + 0.5], 9, 6, turn) == [7.5, 1.5] and shown([7.5, 1.5], 9, 6, turn) == [
        x + 0.5,
        y + 0.5,
    ]


def test_labels_of_turned_pictures(root):
    """Shown they are 60 x 80: a box at the upper left is stored at the lower left."""
    for kind in 'yolo', 'labelme', 'cvat':
        pictures(root / kind, 'a.jpg', turn=6)
    write(root / 'yolo/a.txt', '0 .05 .1 .1 .2')  # 6 x 16 pixels
    write(root / 'yolo/classes.txt', 'cat')
    shape = {'label': 'cat', 'points': [[0, 0], [6, 16]], 'shape_type': 'rectangle'}
    write(
        root / 'labelme/a.json',
        json.dumps({'imagePath': 'a.jpg', 'imageWidth': 60, 'imageHeight': 80, 'shapes': [shape]}),
    )
    box = '<box label="cat" xtl="0" ytl="0" xbr="6" ybr="16"/>'
    write(
        root / 'cvat/a.xml',
        f'<annotations><image id="0" name="a.jpg" width="60" height="80">{box}</image></annotations>',
    )
    for kind in 'yolo', 'labelme', 'cvat':
        (one,) = labels.read(kind, str(root / kind)).images.values()
        assert (one.width, one.height, one.turn) == (80, 60, 6) and one.things[0].box == pytest.approx(
            [0, 54, 16, 60]
        )
    for size, box in (('80', '60'), [0, 0, 6, 16]), (('60', '80'), [0, 54, 16, 60]):
        write(
            root / 'csv/t.csv', f'image,width,height,class,x1,y1,x2,y2\na.jpg,{",".join(size)},cat,0,0,6,16'
        )
        pictures(root / 'csv', 'a.jpg', turn=6)
        assert labels.read('csv', str(root / 'csv')).images['a.jpg'].things[0].box == box


# CSV


def test_csv_of_retinanet(root):
    pictures(root, 'img/a.png', 'img/b.png')
    write(
        root / 'annotations.csv',
        '\ufeff/data/img/a.png,10,5,30,25,cat\n/data/img/a.png,1,2,3,4,dog\nimg/b.png,,,,,\n',
    )
    write(root / 'classes.csv', 'dog,0\ncat,1\n')
    found = labels.read('csv', str(root))
    assert objects(found) == {'img/a.png': [('cat', *CAT), ('dog', 1, 2, 3, 4)], 'img/b.png': []}
    assert found.classes == ['dog', 'cat'] and found.splits == {}


def test_csv_of_roboflow_and_others(root):
    head = 'filename,width,height,class,xmin,ymin,xmax,ymax\n'
    pictures(root, 'train/a.png', 'valid/a.png', 'valid/Two Words.JPG')
    write(root / 'train/_annotations.csv', head + 'a.png,80,60,"cat, small",10,5,30,25\n')
    write(
        root / 'valid/_annotations.csv',
        head.replace(',', ';') + 'a.png;80;60;cat;1;2;3;4\ntwo words.jpg;;;;;;;\n',
    )
    found = labels.read('csv', str(root))
    assert found.splits == {'train': ['train/a.png'], 'valid': ['valid/a.png', 'valid/Two Words.JPG']}
    assert objects(found) == {
        'train/a.png': [('cat, small', *CAT)],
        'valid/a.png': [('cat', 1, 2, 3, 4)],
        'valid/Two Words.JPG': [],
    }


def test_csv_of_open_images(root):
    pictures(root, 'train/0001.jpg')
    write(
        root / 'train-annotations-bbox.csv',
        'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n'
        '0001,xclick,/m/01yrx,1,0.125,0.375,0.083333333333,0.416666666667,0,1,1,0,0\n',
    )
    write(root / 'class-descriptions-boxable.csv', '/m/01yrx,Cat\n/m/0bt9lr,"Dog, big"\n')
    (thing,) = labels.read('csv', str(root)).images['train/0001.jpg'].things
    assert thing.name == 'Cat' and thing.box == pytest.approx(CAT) and thing.flags == {'truncated', 'crowd'}


def test_an_object_in_two_tables_is_one(root):
    pictures(root, 'a.png', 'b.png')
    write(root / 'train.csv', 'a.png,10,5,30,25,cat\na.png,10,5,30,25,cat\n')
    write(root / 'trainval.csv', 'a.png,10,5,30,25,cat\na.png,1,2,3,4,dog\nb.png,1,2,3,4,dog\n')
    found = labels.read('csv', str(root))
    assert [name for name, *_ in objects(found)['a.png']] == ['cat', 'cat', 'dog']
    assert found.splits == {'train': ['a.png'], 'trainval': ['a.png', 'b.png']}


# LabelMe


def test_labelme_shapes(root):
    pictures(root, 'photos/a.png')
    circle = {
        'label': 'sun',
        'points': [[40, 30], [40, 20]],
        'shape_type': 'circle',
        'flags': {'difficult': True},
    }
    parts = [
        {
            'label': 'cat',
            'points': [[x, 5], [x + 10, 5], [x + 10, 25]],
            'shape_type': 'polygon',
            'group_id': 7,
        }
        for x in (10, 20)
    ]
    mask = Image.fromarray(np.array([[1, 1], [0, 1]], bool))
    stream = io.BytesIO()
    mask.save(stream, 'png')
    window = {
        'label': 'dot',
        'points': [[4, 6], [5, 7]],
        'shape_type': 'mask',
        'mask': base64.b64encode(stream.getvalue()).decode(),
    }
    point = {'label': 'nose', 'points': [[1, 1]], 'shape_type': 'point'}
    swapped = {'label': 'dog', 'points': [[30, 25], [10, 5]], 'shape_type': 'rectangle', 'truncated': True}
    shapes = [parts[0], circle, parts[1], window, point, swapped]
    write(root / 'marks/a.json', json.dumps({'imagePath': '..\\photos\\a.png', 'shapes': shapes}))
    cat, sun, dot, dog = labels.read('labelme', str(root)).images['photos/a.png'].things
    assert (cat.name, cat.box, len(cat.mask)) == ('cat', CAT, 2)
    assert sun.box == [30, 20, 50, 40] and sun.flags == {'difficult'} and len(sun.mask[0]) == 72
    assert dot.box == [4, 6, 6, 8] and outlines.runs_of(dot.mask) == ([0, 2, 1, 1], 4, 6, 2, 2)
    assert dog.box == CAT and dog.mask is None and dog.flags == {'truncated'}


def test_labelme_with_the_picture_inside(root):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(stream, 'jpeg')
    shape = {'label': 'cat', 'points': [[10, 5], [30, 25]], 'shape_type': 'rectangle'}
    for name in 'train/a', 'val/b':
        content = {
            'imagePath': 'gone.jpg',
            'imageData': base64.b64encode(stream.getvalue()).decode(),
            'shapes': [shape],
        }
        write(root / f'{name}.json', json.dumps(content))
    train, val = load(root, 'labelme')
    assert train.gt_roidb()[0]['boxes'].tolist() == [[10, 5, 29, 24]] and train.image_size_at(0) == (80, 60)
    assert train.image_path_at(0).startswith(cfg.DATA_DIR) and Path(val.image_path_at(0)).exists()


def test_labelme_with_paths_that_are_no_more_and_one_name_in_two_folders(root):
    pictures(root, 'train/a.png', 'val/a.png')
    for split in 'train', 'val':
        content = {'imagePath': 'before it was renamed.jpg', 'imageData': None, 'shapes': []}
        write(root / split / 'a.json', json.dumps(content))
    assert labels.read('labelme', str(root)).splits == {'train': ['train/a.png'], 'val': ['val/a.png']}


# CVAT


def test_cvat_shapes_and_subsets(root):
    pictures(root, 'images/Train/a.png', 'images/Validation/b.png')
    write(
        root / 'annotations.xml',
        '<annotations><version>1.1</version><meta><task><mode>annotation</mode></task></meta>'
        '<image id="0" name="a.png" subset="Train" width="80" height="60">'
        '<box label="cat" occluded="1" xtl="10" ytl="5" xbr="30" ybr="25"><attribute name="truncated">true</attribute></box>'
        '<box label="bar" xtl="30" ytl="10" xbr="50" ybr="14" rotation="90.0"/>'
        '<polygon label="dog" points="40,30;80,30;60,60"/>'
        '<ellipse label="sun" cx="40" cy="30" rx="20" ry="10"/>'
        '<mask label="dot" rle="0, 2, 1, 1" left="4" top="6" width="2" height="2"/>'
        '<points label="nose" points="1,1"/></image>'
        '<image id="1" name="b.png" subset="Validation" width="80" height="60"/></annotations>',
    )
    found = labels.read('cvat', str(root))
    cat, bar, dog, sun, dot = found.images['images/Train/a.png'].things
    assert (
        cat.box == CAT and cat.flags == {'occluded', 'truncated'} and dog.mask == [[40, 30, 80, 30, 60, 60]]
    )
    assert (
        bar.box == pytest.approx([38, 2, 42, 22])
        and sun.box == pytest.approx([20, 20, 60, 40])
        and dot.box == [4, 6, 6, 8]
    )
    assert found.splits == {'train': ['images/Train/a.png'], 'validation': ['images/Validation/b.png']}
    assert load(root, 'cvat')[1].name == 'mine_validation'


def test_cvat_tracks(root):
    pictures(root, *(f'one/frame_{i:06d}.png' for i in range(4)), 'two/clip_07.png')
    boxes = ''.join(
        f'<box frame="{frame}" outside="{int(frame == 2)}" occluded="0" keyframe="1" xtl="{10 + frame}" ytl="5" xbr="30" ybr="25"/>'
        for frame in range(3)
    )
    size = '<original_size><width>80</width><height>60</height></original_size>'
    for name, tracks, frames in ('one', f'<track id="0" label="cat">{boxes}</track>', 3), ('two', '', 8):
        meta = f'<meta><task><size>{frames}</size><mode>interpolation</mode>{size}</task></meta>'
        write(
            root / f'{name}/annotations.xml',
            f'<annotations><version>1.1</version>{meta}{tracks}</annotations>',
        )
    assert objects(labels.read('cvat', str(root))) == {
        'one/frame_000000.png': [('cat', 10, 5, 30, 25)],
        'one/frame_000001.png': [('cat', 11, 5, 30, 25)],
        'one/frame_000002.png': [],
        'two/clip_07.png': [],
    }


# COCO and VOC, as others lay them out


def test_coco_of_roboflow(root):
    for split in 'train', 'valid':
        pictures(root, f'{split}/a b.jpg')
        path = root / split / '_annotations.coco.json'
        thing = {'category_id': 1, 'bbox': [10, 5, 20, 20], 'area': 400, 'iscrowd': 0}
        write_coco(path, {'a b.jpg': (80, 60, [thing])}, {0: 'animals', 1: 'cat', 2: 'dog'})
        content = json.loads(path.read_text())
        for row in content['categories']:
            row['supercategory'] = 'animals' if row['id'] else 'none'
        path.write_text('\ufeff' + json.dumps(content))
    train, valid = load(root, 'coco')
    assert train.classes == ('__background__', 'cat', 'dog') and valid.name == 'mine_valid'
    assert train.gt_roidb()[0]['gt_classes'].tolist() == [1] and train.image_path_at(0) == str(
        root / 'train/a b.jpg'
    )


def test_coco_with_windows_paths(root):
    for split in 'train', 'val':
        pictures(root, f'images/{split}/a.png')
        write_coco(root / f'annotations/{split}.json', {f'images\\{split}\\a.png': (80, 60, [])}, {1: 'cat'})
    assert load(root, 'coco')[0].image_path_at(0) == str(root / 'images/train/a.png')


def test_voc_with_files_beside_the_images(root):
    xml = (
        '<annotation><path>C:\\x\\a.jpg</path><object><name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax>'
        '<ymax>25</ymax></bndbox></object></annotation>'
    )
    for split in 'train', 'valid':
        pictures(root, f'{split}/a b.JPG')
        write(root / split / 'a b.xml', '\ufeff' + xml)
    train, valid = load(root, 'voc')
    assert train.image_path_at(0) == str(root / 'train/a b.JPG') and valid.image_index == ['valid/a b']
    assert train.gt_roidb()[0]['boxes'].tolist() == [[10, 5, 29, 24]]


# The YAML file's own division, and what is kept


@pytest.fixture
def flat(root):
    """Three pictures, not divided; a.png has a cat."""
    pictures(root, 'images/a.png', 'images/b.png', 'images/c.png')
    write(root / 'labels/a.txt', f'1 {IN_SHARES}')
    write(root / 'data.yaml', NAMES)
    return root


def test_splits_of_the_yaml_file(flat):
    write(flat.parent / 'lists/mine.txt', 'images/b.png\nc\n')
    train, val = load(flat, 'yolo', splits={'train': ['a'], 'val': 'lists/mine.txt'})
    assert [Path(val.image_path_at(i)).name for i in range(val.num_images)] == ['b.png', 'c.png']
    assert len(train.gt_roidb()[0]['boxes']) == 1
    train, val = load(flat, 'yolo', splits={'train': 'set/images', 'val': ['a.png']}, classes=['cat'])
    assert train.num_images == 3 and train.classes == ('__background__', 'cat')


def test_without_any_division_it_says_what_makes_one(flat):
    with pytest.raises(ValueError, match='nothing divides it into train and val.*tools/split_dataset.py'):
        load(flat, 'yolo')


def test_what_is_kept_is_made_anew_when_a_file_changes(flat):
    splits = {'train': ['a', 'b'], 'val': ['c']}
    first = load(flat, 'yolo', splits=splits)[0]
    changed = Path(first.path).stat().st_mtime_ns
    assert (
        load(flat, 'yolo', splits=splits)[0].path == first.path
        and Path(first.path).stat().st_mtime_ns == changed
    )
    write(flat / 'labels/b.txt', f'0 {IN_SHARES}\n0 {IN_SHARES}')
    assert [len(entry['boxes']) for entry in load(flat, 'yolo', splits=splits)[0].gt_roidb()] == [1, 2]


# What is wrong


@pytest.mark.parametrize(
    'kind, file, text, said',
    [
        ('yolo', 'labels/a.txt', f'1 {IN_SHARES}\n7 0 0 1 1', r'labels/a.txt:2: wanted the number of one of 2 classes'),
        ('yolo', 'labels/a.txt', '1.5 0 0 1 1', 'a.txt:1: wanted the number of one of 2 classes'),
        ('yolo', 'labels/a.txt', '1 0 0 x 1', "a.txt:1: wanted numbers, got '1 0 0 x 1'"),
        ('yolo', 'labels/a.txt', '1 nan 0 1 1', 'a.txt:1: wanted shares of the image'),
        ('yolo', 'labels/a.txt', '1 40 30 20 20', 'a.txt:1: wanted shares of the image, from 0 to 1.*are these pixels'),
        ('yolo', 'data.yaml', 'names: cat', 'data.yaml: names: wanted a list, or a mapping'),
        ('yolo', 'data.yaml', 'train: images/nowhere\nnames: [cat]', 'data.yaml: train: no such folder or list .*nowhere'),
        ('yolo', 'train.txt', 'images/a.png\nz.png', r'train.txt:2: no such image, or several: z.png'),
        ('csv', 'all.csv', 'a.png,1,2,3', 'all.csv:1: wanted 6 columns, got 4'),
        ('csv', 'all.csv', 'a.png,1,2,3,4,cat\n\n"a.png",1,2,,4,cat', 'all.csv:3: wanted a class and four numbers'),
        ('csv', 'all.csv', 'c.png,1,2,3,4,cat\nz.png,1,2,3,4,cat', "all.csv:2: its image 'z.png' is not in"),
        ('csv', 'all.csv', 'picture,x1,y1,x2,y2,class\na.png,1,2,3,4,cat', 'all.csv:1: no column image; the columns are picture'),
        ('labelme', 'a.json', '{"shapes": 3}', 'a.json: not as LabelMe writes it'),
        ('labelme', 'a.json', '{"shapes": [{"label": "x", "points": [[1, 2]]}], "imagePath": "a.png"}', 'shape 1: a polygon of 1 points'),
        ('labelme', 'a.json', '{"shapes": [], "imagePath": "z.png"}', 'set/images/a.png|a.json: its image z.png is not in'),
        ('cvat', 'a.xml', '<annotation/>', 'a.xml: not as CVAT writes it: wanted <annotations>, got <annotation>'),
        ('cvat', 'a.xml', '<annotations><image id="3" name="a.png"><box label="x" xtl="1"/></image></annotations>', 'a.xml: image 3 .a.png., object 1: not as CVAT writes a box'),
        ('cvat', 'a.xml', '<annotations><image id="3" name="z.png"/></annotations>', 'image 3 .z.png.: its picture z.png is not in'),
        ('cvat', 'none.txt', '', 'no .xml file in it'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_by_file_and_line(flat, kind, file, text, said):
    write(flat / file, text)
    if kind == 'labelme' and 'z.png' in text:
        (flat / 'a.json').rename(flat / 'z.json')
        said = 'z.json: its image z.png is not in'
    with pytest.raises((ValueError, OSError), match=said):
        labels.read(kind, str(flat))


def test_a_name_that_two_pictures_have_is_not_guessed(root):
    pictures(root, 'one/a.png', 'two/a.png')
    write(root / 'all.csv', 'a.png,1,2,3,4,cat')
    with pytest.raises(
        FileNotFoundError, match='all.csv:1: its image .a.png. is not in .*, or there are several'
    ):
        labels.read('csv', str(root))
    write(root / 'all.csv', 'D:\\pictures\\two\\a.png,1,2,3,4,cat')
    assert list(labels.read('csv', str(root)).images) == ['two/a.png']


def test_labels_that_lie_nowhere_are_told(root):
    pictures(root, 'images/a.png')
    write(root / 'data.yaml', NAMES)
    with pytest.raises(
        FileNotFoundError,
        match='not one of 1 images has a label file: .*images/a.png would have .*labels/a.txt',
    ):
        labels.read('yolo', str(root))


def test_all_that_is_wrong_is_listed(flat, capsys):
    """tools/check_dataset.py: what cannot be read, and what boxes break, by the files of labels."""
    write(flat / 'labels/b.txt', '0 x 0 1 1\n0 9 9 9 9\n0 0.5 0.5 1.5 0.5')
    write(
        flat.parent / 'mine.yml', 'name: mine\nformat: yolo\nroot: set\nsplits: {train: [a, b], val: [c]}\n'
    )
    assert check_dataset.main([str(flat.parent / 'mine.yml')]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{flat}/labels/b.txt:1: wanted numbers, got '0 x 0 1 1' [stops training]"
    assert lines[1].startswith(f'{flat}/labels/b.txt:2: wanted shares of the image')
    assert lines[2].startswith(
        f'{flat}/labels/b.txt: object 1 (dog): clipped: xmin -20 ymin 15 xmax 99 ymax 44 of 80x60'
    )
    assert lines[3] == 'mine_train 2, mine_val 1 images' and lines[-1].startswith(
        '3 problems, listed above; training stops at 2'
    )


@pytest.mark.parametrize(
    'splits, said',
    [
        ({'train': ['a', 'zebra']}, 'no such image, or several: zebra'),
        ({'train': 'lists/none.txt'}, 'none.txt: no such list, folder or file of labels'),
        ({'train': 3}, 'split train: wanted a list, a file or a folder, got 3'),
    ],
)
def test_wrong_splits(flat, splits, said):
    with pytest.raises((ValueError, OSError), match=said):
        load(flat, 'yolo', splits={'val': ['a'], **splits})
    with pytest.raises(ValueError, match='images: wanted a folder, got'):
        load(flat, 'yolo', images={'train': 'a'})


def test_where_nothing_can_be_read_it_says_why(root, capsys):
    pictures(root, 'a.png')
    write(root / 'train.csv', 'a.png,1,2,3\nz.png,1,2,3,4,cat\n')
    write(root.parent / 'mine.yml', 'name: mine\nformat: csv\nroot: set\n')
    assert check_dataset.main([str(root.parent / 'mine.yml')]) == 1
    said = capsys.readouterr().out
    assert 'train.csv:1: wanted 6 columns' in said and "train.csv:2: its image 'z.png' is not in" in said


@pytest.mark.parametrize(
    'files, kind',
    [
        (['JPEGImages/a.jpg'], 'voc'),
        (['Annotations/DET/train/a.xml'], 'imagenet'),
        (['images/a.png', 'labels/a.txt'], 'yolo'),
        (['t.csv'], 'csv'),
        (['a.json={"version": 1, "shapes": []'], 'labelme'),
        (['annotations/x.json={"images": []'], 'coco'),
        (['a.xml=<annotations>'], 'cvat'),
        (['train/a.xml=<annotation>'], 'voc'),
        (['a.png'], None),
    ],
)
def test_a_format_is_known_by_its_files(root, files, kind):
    for file in files:
        name, _, text = file.partition('=')
        write(root / name, text)
    assert labels.guess(str(root)) == kind

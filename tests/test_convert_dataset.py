"""tools/convert_dataset.py: the same two pictures, as each labelling program leaves them, become the same dataset."""

import json

import convert_dataset
import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from datasets.readers.labels import LABELS

# Of 80 x 60: a cat's box, a dog's triangle; the other picture, 40 x 60, has none
CAT, DOG = [10.0, 5.0, 30.0, 25.0], [40.0, 30.0, 80.0, 30.0, 60.0, 60.0]


def yolo(root):
    (root / 'labels').mkdir()
    (root / 'data.yaml').write_text('names: {0: dog, 1: cat}\n')
    lines = '1 0.25 0.25 0.25 0.33333333333\n0 0.5 0.5 1.0 0.5 0.75 1.0\n\n'
    (root / 'labels' / 'a.txt').write_text(lines)
    (root / 'labels' / 'b.txt').write_text('')


def comma(root):
    head = 'filename,width,height,class,xmin,ymin,xmax,ymax'
    rows = 'a.png,80,60,cat,10,5,30,25', 'images/a.png,80,60,dog,40,30,80,60', 'b.png,40,60,,,,,'
    (root / 'all.csv').write_text('\n'.join([head, *rows]) + '\n')


def comma_without_names(root):
    (root / 'all.csv').write_text('a.png,10,5,30,25,cat\na.png,40,30,80,60,dog\nb.png,,,,,\n')


def labelme(root):
    shapes = [
        {'label': 'cat', 'points': [[30, 25], [10, 5]], 'shape_type': 'rectangle'},
        {'label': 'dog', 'points': np.reshape(DOG, (-1, 2)).tolist(), 'shape_type': 'polygon'},
        {'label': 'nose', 'points': [[1, 1]], 'shape_type': 'point'},
    ]
    for name, mine in ('a', shapes), ('b', []):
        (root / f'{name}.json').write_text(json.dumps({'imagePath': f'images\\{name}.png', 'shapes': mine}))


def cvat(root):
    points = ';'.join(f'{x},{y}' for x, y in np.reshape(DOG, (-1, 2)))
    (root / 'annotations.xml').write_text(
        '<annotations><version>1.1</version><image id="0" name="a.png" width="80" height="60">'
        '<box label="cat" xtl="10" ytl="5" xbr="30" ybr="25"/>'
        f'<polygon label="dog" points="{points}"/></image>'
        '<image id="1" name="b.png" width="40" height="60"/></annotations>'
    )


CASES = [('yolo', yolo), ('csv', comma), ('csv', comma_without_names), ('labelme', labelme), ('cvat', cvat)]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'given'
    (folder / 'images').mkdir(parents=True)
    for name, width in ('a', 80), ('b', 40):
        cv2.imwrite(str(folder / 'images' / f'{name}.png'), np.zeros((60, width, 3), np.uint8))
    return folder


@pytest.mark.parametrize('kind, write', CASES)
def test_every_program_says_the_same(root, tmp_path, kind, write):
    write(root)
    first, second = sorted(LABELS[kind](str(root)))
    assert (first[:3], second) == (('images/a.png', 80, 60), ('images/b.png', 40, 60, []))
    (cat, box, none), (dog, other, polygon) = first.objects
    assert (cat, dog, none) == ('cat', 'dog', None) and polygon in (None if kind == 'csv' else DOG, DOG)
    np.testing.assert_allclose([box, other], [CAT, [40, 30, 80, 60]], atol=1e-6)
    convert_dataset.main([kind, str(root), str(tmp_path / 'fruit'), '--val', '0'])
    coco = COCO(str(tmp_path / 'fruit' / 'annotations' / 'instances_train.json'))
    assert [row['name'] for row in coco.dataset['categories']] == ['cat', 'dog'] and len(coco.imgs) == 2
    assert coco.anns[1]['bbox'] == pytest.approx([10, 5, 20, 20]) and coco.anns[2]['area'] == 1200


def test_what_is_written_is_a_dataset(root, tmp_path):
    """Divided by chance, and read as own datasets are."""
    from datasets.own import load

    cvat(root)
    convert_dataset.main(['cvat', str(root), str(tmp_path / 'fruit'), '--val', '0.5'])
    data = load(str(tmp_path / 'fruit' / 'fruit.yml'))
    assert data.name == 'fruit' and data.classes == ('__background__', 'cat', 'dog')
    assert (data.train, data.test) == ('train', 'val') and set(data.files) == {'train', 'val'}


@pytest.mark.parametrize(
    'kind, file, text, said',
    [
        ('yolo', 'labels/a.txt', '7 0 0 1 1', 'a.txt:1: wanted the number of one of 2 classes'),
        ('yolo', 'labels/a.txt', '1 0 0 x 1', 'a.txt:1: wanted numbers'),
        ('csv', 'all.csv', 'a.png,1,2,3', 'all.csv:1: wanted 6 columns, got 4'),
        ('csv', 'all.csv', 'c.png,1,2,3,4,cat', 'all.csv:1: its image c.png is not in'),
        ('labelme', 'a.json', '{"shapes": 3}', 'a.json: not as LabelMe writes it'),
        ('cvat', 'a.xml', '<a><image name="a.png"/></a>', 'a.xml: not as CVAT for images writes it'),
        ('cvat', 'none.txt', '', 'no .xml file in it'),
    ],
)
def test_what_cannot_be_read_is_told(root, kind, file, text, said):
    if kind == 'yolo':
        yolo(root)
    (root / file).write_text(text)
    with pytest.raises((ValueError, OSError), match=said):
        LABELS[kind](str(root))

"""tools/split_dataset.py: every annotated image in one list, the same for the same seed, classes in both, and nothing overwritten."""

import json
import os

import pytest

import split_dataset
from datasets import labels, own
from datasets.split import divide
from devkits import coco_object, obj, write, write_coco, write_image, write_imagenet, write_voc
from fast_rcnn.config import cfg


def lists(folder):
    return {name[:-4]: (folder / name).read_text().split() for name in sorted(os.listdir(folder))}


def test_voc(tmp_path, capsys):
    ids = [f'{i:02d}' for i in range(10)]
    write_voc(tmp_path, {name: [obj('cat', 1, 1, 9, 9)] for name in ids}, {})
    write_image(tmp_path / 'JPEGImages' / 'bare.jpg')
    split_dataset.main([str(tmp_path), '--val', '0.2', '--test', '0.3'])
    found = lists(tmp_path / 'ImageSets' / 'Main')
    assert {name: len(found[name]) for name in found} == {'test': 3, 'train': 5, 'val': 2}
    assert sorted(sum(found.values(), [])) == ids
    said = capsys.readouterr().out
    assert '1 images have no annotation file' in said and 'images with cat: val 2, test 3, train 5' in said
    with pytest.raises(ValueError, match='val.txt: is there already; nothing is written'):
        split_dataset.main([str(tmp_path), '--seed', '4'])
    assert lists(tmp_path / 'ImageSets' / 'Main') == found


def test_imagenet_layout_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    images = {('all', str(i)): [obj('cat', 1, 1, 9, 9)] for i in range(4)}
    write_imagenet(tmp_path / 'kit', images, {})
    split_dataset.main([str(tmp_path / 'kit'), '--val', '0.25'])
    (tmp_path / 'kit.yml').write_text('name: kit\nformat: imagenet\nroot: kit\n')
    described = own.load(str(tmp_path / 'kit.yml'))
    assert {name: len(ids) for name, ids in described.splits.items()} == {'train': 3, 'val': 1}
    assert [len(entry['boxes']) for entry in own.own(described, 'train').roidb] == [1, 1, 1]


def test_lists_of_the_other_formats(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    for i in range(10):
        write_image(tmp_path / 'kit/images' / f'{i} a.jpg')
        write(tmp_path / 'kit/labels' / f'{i} a.txt', '0 .5 .5 .5 .5' * (i < 4))
    write(tmp_path / 'kit/classes.txt', 'cat')
    split_dataset.main([str(tmp_path / 'kit'), '--val', '0.5'])
    said = capsys.readouterr().out
    assert 'images with cat: val 2, train 2\nimages without objects: val 3, train 3' in said
    (tmp_path / 'kit.yml').write_text('name: kit\nformat: yolo\nroot: kit\n')
    assert {name: len(ids) for name, ids in own.load(str(tmp_path / 'kit.yml')).splits.items()} == {
        'train': 5,
        'val': 5,
    }
    with pytest.raises(ValueError, match='is divided already: train, val; nothing is written'):
        split_dataset.main([str(tmp_path / 'kit')])


def test_a_file_of_coco_is_divided(tmp_path):
    images = {
        f'{i}.jpg': (60, 40, [coco_object(1 + (i < 2), 1, 1, 9, 9, segmentation=[[1, 1, 9, 1, 9, 9]])])
        for i in range(6)
    }
    path = write_coco(tmp_path / 'annotations/all.json', images, {1: 'cat', 2: 'rare'}, licenses=['mine'])
    for name in images:
        write_image(tmp_path / 'images' / name)
    split_dataset.main([str(tmp_path), '--val', '0.34'])
    whole = json.loads(open(path).read())
    parts = [
        json.loads((tmp_path / f'annotations/instances_{split}.json').read_text())
        for split in ('train', 'val')
    ]
    assert [len(part['images']) for part in parts] == [4, 2]
    assert sorted((row['id'] for part in parts for row in part['annotations'])) == [1, 2, 3, 4, 5, 6]
    for part in parts:
        assert part['licenses'] == ['mine'] and part['categories'] == whole['categories']
        assert sum(row['category_id'] == 2 for row in part['annotations']) == 1
        assert all(row in whole['annotations'] for row in part['annotations'])
        assert all(row['file_name'].startswith('images/') for row in part['images'])
    found = labels.read('coco', str(tmp_path))
    assert {split: len(names) for split, names in found.splits.items()} == {'train': 4, 'val': 2}


def test_a_seed_divides_alike_whatever_the_order():
    ids = [str(i) for i in range(50)]
    assert divide(ids, {'val': 0.2}, 3) == divide(ids[::-1], {'val': 0.2}, 3)
    assert divide(ids, {'val': 0.2}, 3) != divide(ids, {'val': 0.2}, 4)
    assert len(divide(ids, {'val': 0.001}, 3)['val']) == 1
    with pytest.raises(ValueError, match='1 images are too few'):
        divide(['a'], {'val': 0.2}, 3)


@pytest.mark.parametrize('where', ['annotations/instances_default.json', 'train/_annotations.coco.json'])
def test_a_file_of_coco_that_cvat_or_roboflow_left_is_divided(tmp_path, monkeypatch, where):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    folder = {'annotations': 'images/default', 'train': 'train'}[where.partition('/')[0]]
    write_coco(
        tmp_path / where, {f'{i}.jpg': (60, 40, [coco_object(1, 1, 1, 9, 9)]) for i in range(4)}, {1: 'cat'}
    )
    for i in range(4):
        write_image(tmp_path / folder / f'{i}.jpg')
    split_dataset.main([str(tmp_path), '--val', '0.5'])
    write(tmp_path / 'kit.yml', 'name: kit\nformat: coco\nroot: .\n')
    described = own.load(str(tmp_path / 'kit.yml'))
    assert (described.train, described.test) == ('train', 'val')
    assert [os.path.exists(own.make(described, 'val').image_path_at(i)) for i in range(2)] == [True, True]


@pytest.mark.parametrize('seed', range(5))
def test_each_class_is_shared_out(seed):
    """Of 200 images 100 have cats, 40 dogs (half of them with cats), 2 a yak, and the others nothing."""
    ids = [f'{i:03d}' for i in range(200)]
    have = {'cat': range(100), 'dog': range(80, 120), 'yak': (5, 150)}
    classes = {name: {word for word, those in have.items() if i in those} for i, name in enumerate(ids)}
    found = divide(ids, {'val': 0.2, 'test': 0.1}, seed, classes)
    assert {split: len(names) for split, names in found.items()} == {'val': 40, 'test': 20, 'train': 140}
    for name, share in (('cat', 100), ('dog', 40)):
        for split, part in (('val', 0.2), ('test', 0.1), ('train', 0.7)):
            assert abs(sum(name in classes[one] for one in found[split]) - share * part) <= 2, (name, split)
    two = divide(ids, {'val': 0.2}, seed, classes)
    assert all(any('yak' in classes[one] for one in names) for names in two.values())
    assert abs(sum(not classes[one] for one in two['val']) - 0.2 * 79) <= 2


def test_groups_stay_together(tmp_path):
    ids = [f'film{i % 7}_{i:04d}' for i in range(70)] + ['alone']
    found = divide(ids, {'val': 0.3}, 1, None, r'^(.*)_\d+$')
    films = [{one.partition('_')[0] for one in names} for names in found.values()]
    assert not films[0] & films[1] and 20 <= len(found['val']) <= 31
    write_voc(tmp_path, {name: [obj('cat', 1, 1, 9, 9)] for name in ids[:14]}, {})
    split_dataset.main([str(tmp_path), '--val', '0.3', '--group', '^film[0-9]'])
    films = [{one[:5] for one in names} for names in lists(tmp_path / 'ImageSets' / 'Main').values()]
    assert not films[0] & films[1] and films[0] and films[1]
    with pytest.raises(ValueError, match='1 groups of images are too few for val, train'):
        divide(ids[:70], {'val': 0.3}, 1, None, '^film')


def test_a_folder_without_annotated_images(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image with an annotation file, in the voc layout'):
        split_dataset.main([str(tmp_path)])

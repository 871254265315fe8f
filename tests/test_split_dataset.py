"""tools/split_dataset.py: every annotated image in one list, the same for the same seed, and nothing overwritten."""

import os

import pytest

import split_dataset
from datasets.split import divide
from devkits import obj, write_image, write_imagenet, write_voc
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
    assert '1 images have no annotation file' in capsys.readouterr().out
    with pytest.raises(ValueError, match='val.txt: is there already; nothing is written'):
        split_dataset.main([str(tmp_path), '--seed', '4'])
    assert lists(tmp_path / 'ImageSets' / 'Main') == found


def test_imagenet_layout_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    images = {('all', str(i)): [obj('cat', 1, 1, 9, 9)] for i in range(4)}
    write_imagenet(tmp_path / 'kit', images, {})
    split_dataset.main([str(tmp_path / 'kit'), '--val', '0.25'])
    (tmp_path / 'kit.yml').write_text('name: kit\nformat: imagenet\nroot: kit\n')
    from datasets import own

    described = own.load(str(tmp_path / 'kit.yml'))
    assert {name: len(ids) for name, ids in described.splits.items()} == {'train': 3, 'val': 1}
    assert [len(entry['boxes']) for entry in own.own(described, 'train').roidb] == [1, 1, 1]


def test_a_seed_divides_alike_whatever_the_order():
    ids = [str(i) for i in range(50)]
    assert divide(ids, {'val': 0.2}, 3) == divide(ids[::-1], {'val': 0.2}, 3)
    assert divide(ids, {'val': 0.2}, 3) != divide(ids, {'val': 0.2}, 4)
    assert len(divide(ids, {'val': 0.001}, 3)['val']) == 1
    with pytest.raises(ValueError, match='1 images are too few'):
        divide(['a'], {'val': 0.2}, 3)


def test_a_folder_without_annotated_images(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image with an annotation file, in the voc layout'):
        split_dataset.main([str(tmp_path)])

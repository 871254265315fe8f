"""What a process settles before it works: cfg, the device and how it computes, the seeds.

Settings come in this order, the later over the earlier: the library's own, files of experiments/cfgs (cfg_files: by the
method, the net and the dataset; or the one that --cfg names), the dataset's (`cfg` in its YAML file), single ones.
"""

import os
import re

import caffe
import numpy as np
from caffe.format.prototxt import read_net
from caffe.launch import my_device

from datasets.factory import describe, registered
from fast_rcnn.config import cfg, cfg_from_dict, cfg_from_file, cfg_from_list
from fpn.boxes import family_of_layers
from utils.places import CFGS

# How imdbs' names begin -> the dataset they are of
OF_NAMES = {
    r'voc_0712_': 'pascal_voc_0712',
    r'voc_\d{4}_': 'pascal_voc',
    r'imagenet_\d{4}_': 'imagenet',
    r'coco_\d{4}_': 'coco',
}


# Methods whose settings are those of another, and a file of their own over these
OVER = {'mask_rcnn_end2end': 'faster_rcnn_end2end'}


def settle(imdb, files=(), single=()):
    """Sets cfg for work on an imdb (None: on none). single: key, value, key, value ...

    Errors: KeyError, OSError, ValueError.
    """
    try:
        for path in files:
            cfg_from_file(path)
        cfg_from_list(single)  # already here: DATA_DIR says where datasets are registered
        dataset = imdb and dataset_of(imdb)
        if dataset:
            cfg.MODELS_DIR = os.path.join(cfg.ROOT_DIR, 'models', dataset)
            _merge(describe(dataset))
        cfg_from_list(single)
    except TypeError as error:
        raise ValueError(str(error)) from None


def cfg_files(method, net, family, dataset):
    """The settings files of experiments/cfgs for a net, by name, and the name of its family of boxes: the first that is there
    of <method>_<net>.yml, <method>_<family>.yml, <method>.yml, and after it, where it is there, that one's
    ..._<dataset>.yml with what differs for the dataset. Alternating optimization on a dataset that has a file of its
    own, <dataset>.yml, takes that alone; a method of OVER takes another's, and then its own."""
    if method in OVER:
        return [*cfg_files(OVER[method], net, family, dataset), os.path.join(CFGS, f'{method}.yml')]
    stems = [f'{method}_{net}', f'{method}_{family}', method]
    if method == 'faster_rcnn_alt_opt':
        stems.insert(2, dataset)
    stems = [os.path.join(CFGS, stem) for stem in stems]
    stem = next((stem for stem in stems if os.path.exists(f'{stem}.yml')), stems[-1])
    more = f'{stem}_{dataset}.yml'
    return [f'{stem}.yml', *([more] if os.path.exists(more) else [])]


def preset_files(names):
    """The files of presets, experiments/cfgs/preset_<name>.yml. KeyError, naming those there are, for another."""
    paths = [os.path.join(CFGS, f'preset_{name}.yml') for name in names]
    for name, path in zip(names, paths):
        if not os.path.exists(path):
            known = sorted(re.findall(r'preset_(\w+)\.yml', ' '.join(os.listdir(CFGS))))
            raise KeyError(f'--preset {name}: there is none; known: {", ".join(known)}')
    return paths


def cfg_files_of(prototxt, imdb):
    """The settings files of cfg_files that suit a net's file and an imdb (None: none); none for a net of Caffe's family,
    which the library's own suit."""
    net = read_net(prototxt)
    family = family_of_layers(net.layer, net.name).name
    if family == 'caffe':
        return []
    name, method, *_ = [*net.name.split(), '', '']
    known = os.path.exists(os.path.join(CFGS, f'{method}.yml'))
    return cfg_files(method if known else 'faster_rcnn_end2end', name, family, imdb and dataset_of(imdb))


def dataset_of(imdb):
    """The dataset, as recipes and models/ call it, that an imdb, or several with + between, belongs to; None where it has no
    name."""
    if '+' in imdb:
        datasets = sorted({dataset_of(part) or '' for part in imdb.split('+')})
        years = {part[:9] for part in imdb.split('+')}
        return 'pascal_voc_0712' if years == {'voc_2007_', 'voc_2012_'} else datasets[0] or None
    for pattern, dataset in OF_NAMES.items():
        if re.match(pattern, imdb):
            return dataset
    return max((name for name in registered() if imdb.startswith(f'{name}_')), key=len, default=None)


def _merge(description):
    """Sets what a dataset's YAML file says under `cfg`."""
    try:
        cfg_from_dict(description.cfg)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{description.path}: cfg: {error.args[0]}') from None


def use_device(devices):
    """Engine and library compute on this process's of `devices`: numbers of GPUs, or 'cpu'; in cfg.PRECISION."""
    device = my_device(devices)
    if device == 'cpu':
        caffe.set_mode_cpu()
        cfg.USE_GPU_NMS = False
    else:
        caffe.set_device(device)
        caffe.set_mode_gpu()
        cfg.GPU_ID = device
    caffe.set_tf32(cfg.TF32)
    caffe.set_precision(cfg.PRECISION)


def seed(number):
    """Seeds numpy's generator (what is drawn) and the engine's (what fillers and Dropout draw)."""
    np.random.seed(number)
    caffe.set_random_seed(number)

"""What the engine's tests share: nets from text."""

import caffe


def net_from(tmp_path, text, phase=caffe.TEST, **kwargs):
    path = tmp_path / 'net.prototxt'
    path.write_text(text)
    caffe.set_random_seed(1)
    return caffe.Net(str(path), phase, **kwargs)


def layer(name, kind, bottoms='', tops=None, more=''):
    """One layer as text; bottoms and tops are space-separated names."""
    tops = name if tops is None else tops
    ends = ' '.join([f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()])
    return f'layer {{ name: "{name}" type: "{kind}" {ends} {more} }}\n'


def data(name, *shape):
    dims = ' '.join(f'dim: {d}' for d in shape)
    return layer(name, 'Input', more=f'input_param {{ shape {{ {dims} }} }}')

"""Text files: nets and solvers of every age read as current messages, written, and cut to a phase, level and
stages.
"""

import difflib
import os
import re

from google.protobuf import text_format

from ..proto import caffe_pb2
from .files import atomic_write, read_text
from .upgrade import upgrade_net, upgrade_solver


def read_net(path):
    """The NetParameter of a text prototxt, upgraded.

    Errors: FileNotFoundError; ValueError with file, line and message, for an unknown field or enum value with
    the nearest known one.
    """
    return parse_net(read_text(path, 'net'), str(path))


def parse_net(text, source='<string>'):
    """The NetParameter of a prototxt given as text, upgraded; `source` names it in errors."""
    param = parse_text(text, caffe_pb2.NetParameter(), source)
    try:
        return upgrade_net(param)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None


def read_solver(path):
    """The SolverParameter of a text prototxt; `solver_type` becomes `type`.

    As in the original, a missing snapshot_prefix becomes the solver file's path without its suffix, and one
    that is a folder becomes the file's name in that folder. Errors as read_net.
    """
    param = parse_text(read_text(path, 'solver'), caffe_pb2.SolverParameter(), str(path))
    try:
        upgrade_solver(param)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    stem = os.path.splitext(path)[0]
    if not param.snapshot_prefix:
        param.snapshot_prefix = stem
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))
    return param


def parse_text(text, message, source):
    """`message`, read from text. ValueError with `source`, line and message, as read_net."""
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        place = source if error.GetLine() is None else f'{source}:{error.GetLine()}:{error.GetColumn()}'
        reason = re.sub(r'^\d+:\d+ : ', '', str(error))
        raise ValueError(f'{place}: {reason}{_nearest(reason)}') from None
    missing = message.FindInitializationErrors()
    if missing:
        raise ValueError(f'{source}: required fields are missing: {", ".join(missing)}')
    return message


def _nearest(reason):
    """', did you mean ...?' for protobuf's complaint of an unknown field or enum value."""
    pool = caffe_pb2.DESCRIPTOR.pool
    if match := re.search(r'Message type "(.+?)" has no field named "(.+?)"', reason):
        known = pool.FindMessageTypeByName(match[1]).fields_by_name
    elif match := re.search(r'Enum type "(.+?)" has no value named (.+?)\.', reason):
        known = pool.FindEnumTypeByName(match[1]).values_by_name
    else:
        return ''
    near = difflib.get_close_matches(match[2], list(known), 1, cutoff=0.5)
    return f' Did you mean {near[0]!r}?' if near else f' Known: {", ".join(sorted(known))}'


def upgrade_net_text(source, target):
    """Rewrite a text prototxt of any age in the current form."""
    _write_text(read_net(source), target)


def upgrade_solver_text(source, target):
    """Rewrite a solver prototxt of any age in the current form."""
    param = parse_text(read_text(source, 'solver'), caffe_pb2.SolverParameter(), str(source))
    _write_text(upgrade_solver(param), target)


def _write_text(message, target):
    with atomic_write(target) as path, open(path, 'w', encoding='utf-8') as f:
        f.write(text_format.MessageToString(message))


def filter_net(param, state):
    """A new NetParameter with the layers that the NetState lets in.

    A layer with `include` rules is in when one of them holds, a layer with `exclude` rules when none does.
    ValueError for both in one.
    """
    kept = caffe_pb2.NetParameter()
    kept.CopyFrom(param)
    del kept.layer[:]
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise ValueError(f'layer {layer.name!r} has both include and exclude rules; wanted is one kind')
        rules = layer.include or layer.exclude
        if not rules or any(_holds(rule, state) for rule in rules) == bool(layer.include):
            kept.layer.append(layer)
    return kept


def _holds(rule, state):
    return (
        (not rule.HasField('phase') or rule.phase == state.phase)
        and (not rule.HasField('min_level') or state.level >= rule.min_level)
        and (not rule.HasField('max_level') or state.level <= rule.max_level)
        and set(rule.stage) <= set(state.stage)
        and not set(rule.not_stage) & set(state.stage)
    )

"""The YAML of settings files and of Python layers' param_str: safe, and knowing the tuples of old files."""

import math

import yaml

MOST = 10**6  # values of a text, aliases written out


class Loader(yaml.SafeLoader):
    """yaml.SafeLoader that also reads `!!python/tuple [...]`."""


Loader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def parse_yaml(text, source):
    """What a YAML text says. ValueError in one line, `source:line:column: what is wrong`, where it cannot be read."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if _size(node, {}) > MOST:
            raise ValueError(f'written out it has more than {MOST} values, or it holds itself')
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where, why = f'{source}:{mark.line + 1}:{mark.column + 1}', error.problem
    except yaml.YAMLError as error:
        where, why = source, ' '.join(str(error).split())
    except RecursionError:
        where, why = source, 'nested too deeply'
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:  # at a value of a wrong form
        where, why = source, f'a value that cannot be read ({error})'
    raise ValueError(f'{where}: {why}')


def _size(node, sizes):
    """How many nodes there are below a node, aliases written out; inf where it holds itself. sizes: {id: size}"""
    if node is None or id(node) in sizes:
        return sizes.get(id(node), 0)
    sizes[id(node)] = math.inf
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    nodes = [one for pair in inner for one in (pair if isinstance(pair, tuple) else [pair])]
    sizes[id(node)] = 1 + sum(_size(one, sizes) for one in nodes)
    return sizes[id(node)]


def parse_param_str(text):
    """A layer's param_str -> dict, e.g. "'feat_stride': 16 \\n'scales': [8, 16]"; empty -> {}."""
    values = parse_yaml(text, 'param_str') or {}
    if not isinstance(values, dict):
        raise ValueError(f'param_str wants a mapping such as "\'num_classes\': 21", got {text!r}')
    return values

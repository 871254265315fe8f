"""The YAML of settings files and of Python layers' param_str: safe, and knowing the tuples of old files."""

import yaml


class Loader(yaml.SafeLoader):
    """yaml.SafeLoader that also reads `!!python/tuple [...]`."""


Loader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def parse_yaml(text, source):
    """What a YAML text says. ValueError in one line, `source:line:column: what is wrong`, where it cannot be read."""
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where, why = f'{source}:{mark.line + 1}:{mark.column + 1}', error.problem
    except yaml.YAMLError as error:
        where, why = source, ' '.join(str(error).split())
    raise ValueError(f'{where}: {why}')


def parse_param_str(text):
    """A layer's param_str -> dict, e.g. "'feat_stride': 16 \\n'scales': [8, 16]"; empty -> {}."""
    values = parse_yaml(text, 'param_str') or {}
    if not isinstance(values, dict):
        raise ValueError(f'param_str wants a mapping such as "\'num_classes\': 21", got {text!r}')
    return values

"""The YAML of settings files and of Python layers' param_str: safe, and knowing the tuples of old files."""

import yaml


class Loader(yaml.SafeLoader):
    """yaml.SafeLoader that also reads `!!python/tuple [...]`."""


Loader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def parse_param_str(text):
    """A layer's param_str -> dict, e.g. "'feat_stride': 16 \\n'scales': [8, 16]"; empty -> {}."""
    values = yaml.load(text, Loader) or {}
    if not isinstance(values, dict):
        raise ValueError(f'param_str wants a mapping such as "\'num_classes\': 21", got {text!r}')
    return values

"""Python: the type whose layers are objects of the user's classes. A prototxt names their module, and importing it
runs it: set_python_layers says which ones a prototxt may name."""

import importlib
import os

from ..layer import Layer
from ..registry import layer

_ALLOWED = 'CAFFE_PYTHON_LAYERS'  # the environment variable, so that processes started from here take it over


def set_python_layers(allowed=None):
    """From now on a Python layer's module must be one of `allowed`, names of modules and of packages with all in
    them; None: any. The environment variable CAFFE_PYTHON_LAYERS, names with commas between, says it as well."""
    if isinstance(allowed, str):
        raise TypeError(f'allowed is a list of names, got {allowed!r}')
    if allowed is None:
        os.environ.pop(_ALLOWED, None)
    else:
        os.environ[_ALLOWED] = ','.join(allowed)


def _check_allowed(name, module):
    """ValueError when layer `name` must not import `module`."""
    allowed = os.environ.get(_ALLOWED)
    if allowed is None:
        return
    names = [one.strip() for one in allowed.split(',') if one.strip()]
    if not any(module == one or module.startswith(f'{one}.') for one in names):
        raise ValueError(
            f'layer {name!r}: module {module!r} is not among those allowed for Python layers: '
            f'{", ".join(names) or "none"} (caffe.set_python_layers, or the variable {_ALLOWED})'
        )


@layer('Python')
class PythonLayer(Layer):
    """Stands in the registry; making one gives an object of the class that python_param names, found on sys.path.
    ImportError where there is none such, naming the layer, as `from module import layer` would."""

    fields = ('module', 'layer', 'param_str')

    def __new__(cls, layer_param):
        name, param = layer_param.name, layer_param.python_param
        _check_allowed(name, param.module)
        try:
            module = importlib.import_module(param.module)
        except ModuleNotFoundError as error:
            why = f'module {param.module!r} of its Python layer {param.layer!r}: {error}'
            if error.name and param.module.startswith(error.name):
                why = f'no module {param.module!r} on sys.path for its Python layer {param.layer!r}'
            raise ModuleNotFoundError(f'layer {name!r}: {why}', name=error.name) from error
        if not hasattr(module, param.layer):
            raise ImportError(f'layer {name!r}: module {param.module!r} has no class {param.layer!r}')
        kind = getattr(module, param.layer)
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise ImportError(
                f'layer {name!r}: {param.layer!r} of module {param.module!r} is {kind!r}, wanted is a subclass '
                'of caffe.Layer'
            )
        return kind(layer_param)

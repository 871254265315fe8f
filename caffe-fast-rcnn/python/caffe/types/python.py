"""Python: the type whose layers are objects of the user's classes."""

import importlib

from ..layer import Layer
from ..registry import layer


@layer('Python')
class PythonLayer(Layer):
    """Stands in the registry; making one gives an object of the class that python_param names, found on sys.path."""

    fields = ('module', 'layer', 'param_str')

    def __new__(cls, layer_param):
        name, param = layer_param.name, layer_param.python_param
        try:
            module = importlib.import_module(param.module)
        except ModuleNotFoundError as error:
            if error.name and param.module.startswith(error.name):
                raise ModuleNotFoundError(
                    f'layer {name!r}: no module {param.module!r} on sys.path for its Python layer '
                    f'{param.layer!r}',
                    name=error.name,
                ) from error
            raise
        if not hasattr(module, param.layer):
            raise AttributeError(f'layer {name!r}: module {param.module!r} has no class {param.layer!r}')
        kind = getattr(module, param.layer)
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise TypeError(
                f'layer {name!r}: {param.layer!r} of module {param.module!r} is {kind!r}, wanted is a subclass '
                'of caffe.Layer'
            )
        return kind(layer_param)

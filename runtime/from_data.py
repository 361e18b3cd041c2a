"""Fills in what a config leaves to its data set: the number of classes, and whatever else it asks for by name."""

from collections.abc import Mapping
from typing import Any

from longview.runtime.resolve import ConfigError

# Keys of other data sets, to which None classes means that their labels are numbers.
_DATA_SETS = ('data', 'support')


def filled(config: Any, data: Any, path: str = 'config') -> Any:
    """Returns a config with the values of its data set filled in where they were left out.

    A `num_classes` of None becomes the data set's own, so that heads, targets and banks follow whatever set the run is
    given. A mapping ``{'data': NAME}`` becomes that attribute of the data set, such as ``{'data': 'num_train'}``.

    Args:
        config: a tree of mappings, lists, tuples and leaves; it stays as it is.
        data: the data set (input_pipeline.py).
        path: where the tree stands in the whole config; only for messages.

    Raises:
        ConfigError: the data set has no classes, or nothing of that name.
    """
    if isinstance(config, Mapping):
        if set(config) == {'data'} and isinstance(config['data'], str):
            return _said(data, config['data'], path)
        return {key: _filled_at(key, value, data, f'{path}.{key}') for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(filled(item, data, f'{path}[{n}]') for n, item in enumerate(config))
    return config


def _filled_at(key: str, value: Any, data: Any, path: str) -> Any:
    if key in _DATA_SETS:
        return value
    return _classes(data, path) if key == 'num_classes' and value is None else filled(value, data, path)


def _said(data: Any, name: str, path: str) -> Any:
    if name.startswith('_') or not hasattr(type(data), name):
        raise ConfigError(f'{path} asks the data set for {name!r}, which {type(data).__name__} does not have.')
    return getattr(data, name)


def _classes(data: Any, path: str) -> int:
    if data.num_classes is None:
        raise ConfigError(
            f'{path} is not set, and the labels of the data set are numbers and no classes: set it, prepare the set '
            'with a ClassLabel, or use a task that predicts numbers.'
        )
    return data.num_classes

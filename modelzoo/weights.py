"""Published weights in and out, by a family's name map.

A map is a sequence of pairs (published name, our path) in which ``{i}`` stands for a number, written as its format
says: ``('blocks.{i}.mlp.fc1.weight', 'backbone/block{i:02d}/mlp/up/kernel')``. Layouts follow from our names: a
``kernel`` is (out, in, *window) in PyTorch and (*window, in, out) here, anything else is the same in both. A third
element of a pair is the number of axes of size 1 that the published array ends with and ours has not.
Batch statistics stand among the parameters in published files: `merge` and `separate` bring ours there and back.
Torch's ``num_batches_tracked`` is passed over; torch does without it.
Files are safetensors (https://huggingface.co/docs/safetensors), read and written here without that package: a length,
a JSON header, the bytes.
"""

import functools
import json
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

Names = Sequence[tuple[str, str] | tuple[str, str, int]]

_SLOT = re.compile(r'\{(\w+)(?::[^}]*)?\}')
_DTYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'I64': np.int64,
           'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}


def load_published(names: Names, params: Any, source: str | os.PathLike | Mapping[str, np.ndarray]) -> Any:
    """Returns published weights as a tree like `params`.

    Args:
        names: the family's map.
        params: arrays or their shapes (``jax.eval_shape``); says what is wanted, not changed.
        source: a .safetensors file, or arrays by published name.

    Raises:
        ValueError: names missing, left over, or of another shape, all listed.
    """
    arrays = source if isinstance(source, Mapping) else read_safetensors(source)
    arrays = {name: array for name, array in arrays.items() if not name.endswith('num_batches_tracked')}
    wanted = traverse_util.flatten_dict(params, sep='/')
    found = {ours: name for name in arrays if (ours := _translate(names, name, 0)) is not None}
    extra = [name for name in arrays if _translate(names, name, 0) not in wanted]
    missing = [_translate(names, path, 1) or path for path in wanted if path not in found]
    _refuse(missing=missing, extra=extra)
    loaded = {path: _to_ours(path, np.asarray(arrays[found[path]]), _unit_axes(names, path)) for path in wanted}
    _refuse(misshapen=[f'{found[path]} ({loaded[path].shape}, not {like.shape})'
                       for path, like in wanted.items() if loaded[path].shape != tuple(like.shape)])
    return traverse_util.unflatten_dict({path: loaded[path].astype(wanted[path].dtype) for path in wanted}, sep='/')


def to_published(names: Names, params: Any) -> dict[str, np.ndarray]:
    """Returns `params` as arrays by published name, in PyTorch's layout; the inverse of `load_published`.

    Raises:
        ValueError: parameters that the map does not name, all listed.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    published = {path: _translate(names, path, 1) for path in flat}
    _refuse(extra=[path for path, name in published.items() if name is None])
    return {name: _to_torch(path, np.asarray(flat[path]), _unit_axes(names, path)) for path, name in published.items()}


def save_published(names: Names, params: Any, path: str | os.PathLike) -> None:
    """Writes `params` under their published names as a .safetensors file."""
    write_safetensors(path, to_published(names, params))


def merge(variables: Mapping[str, Any]) -> Any:
    """Returns the parameters and the batch statistics of a network as one tree; no path is in both."""
    flat = [traverse_util.flatten_dict(tree, sep='/') for tree in variables.values()]
    return traverse_util.unflatten_dict({path: leaf for tree in flat for path, leaf in tree.items()}, sep='/')


def separate(merged: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of `merged` in the collections in which `variables` has their paths."""
    flat = traverse_util.flatten_dict(merged)
    return {kind: jax.tree_util.tree_map_with_path(lambda path, _: flat[tuple(key.key for key in path)], tree)
            for kind, tree in variables.items()}


def _translate(names: Names, name: str, side: int) -> str | None:
    """Returns the other side's name of `name`, which is on `side` of the map; None where the map has it not."""
    for pair in names:
        match = _match(pair, name, side)
        if match:
            numbers = {slot: int(value) for slot, value in match.groupdict().items()}
            return pair[1 - side].format(**numbers)
    return None


def _match(pair: Sequence[Any], name: str, side: int) -> re.Match[str] | None:
    return re.fullmatch(_pattern(pair[side]), name)


@functools.cache
def _pattern(name: str) -> str:
    return ''.join(f'(?P<{part}>[0-9]+)' if odd else re.escape(part) for odd, part in _alternate(_SLOT.split(name)))


def _alternate(parts: Iterable[str]) -> Iterable[tuple[bool, str]]:
    return ((bool(index % 2), part) for index, part in enumerate(parts))


def _unit_axes(names: Names, path: str) -> int:
    """Returns the third element of the pair that has `path`, 0 where there is none."""
    pair = next(pair for pair in names if _match(pair, path, 1))
    return pair[2] if len(pair) > 2 else 0


def _to_ours(path: str, array: np.ndarray, unit_axes: int) -> np.ndarray:
    if unit_axes and array.shape[-unit_axes:] == (1,) * unit_axes:
        array = array.reshape(array.shape[:-unit_axes])
    return np.moveaxis(array, (0, 1), (-1, -2)) if _is_kernel(path) else array


def _to_torch(path: str, array: np.ndarray, unit_axes: int) -> np.ndarray:
    array = np.moveaxis(array, (-1, -2), (0, 1)) if _is_kernel(path) else array
    return array.reshape(array.shape + (1,) * unit_axes)


def _is_kernel(path: str) -> bool:
    return path.rsplit('/', 1)[-1] == 'kernel'


def _refuse(**problems: list[str]) -> None:
    said = [f'{len(names)} {kind}: {", ".join(names[:8])}{", ..." if len(names) > 8 else ""}'
            for kind, names in problems.items() if names]
    if said:
        raise ValueError(f'the weights do not fit the network; {"; ".join(said)}. Check the variant and num_classes.')


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, mapped and not yet read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file, or holds a type that NumPy has not.
    """
    with open(path, 'rb') as file:
        prefix = file.read(8)
        length = struct.unpack('<Q', prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= os.path.getsize(path) - 8:
            raise ValueError(f'{os.fspath(path)} is not a safetensors file: convert it with the safetensors package.')
        header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    data = np.memmap(path, np.uint8, 'r', offset=8 + length) if os.path.getsize(path) > 8 + length else b''
    return {name: _tensor(name, entry, data) for name, entry in header.items()}


def _tensor(name: str, entry: dict, data: np.ndarray) -> np.ndarray:
    if entry['dtype'] not in _DTYPES:
        raise ValueError(f'{name} has type {entry["dtype"]}, known are {", ".join(_DTYPES)}: convert it first.')
    start, stop = entry['data_offsets']
    return np.frombuffer(data[start:stop], _DTYPES[entry['dtype']]).reshape(entry['shape'])


def write_safetensors(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a safetensors file."""
    kinds = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}
    header, offset = {}, 0
    for name, array in arrays.items():
        stop = offset + array.nbytes
        header[name] = {'dtype': kinds[array.dtype], 'shape': array.shape, 'data_offsets': [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        file.writelines(np.ascontiguousarray(array).tobytes() for array in arrays.values())

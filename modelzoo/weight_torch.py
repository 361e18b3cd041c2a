"""PyTorch's own files, read without PyTorch: the tensors of one state dict, and nothing that could run.

``torch.save`` writes a pickle in which a tensor is a call of a rebuilding function on a part of a storage, and beside
it the bytes of the storages: in a zip archive, or one after the other in files older than torch 1.6 (facts from torch
2.13, https://github.com/pytorch/pytorch, BSD-3-Clause, torch/serialization.py; no code was taken). A pickle can name
any function of any module. Here those that make tensors stand for functions of ours, objects that training scripts keep
beside the weights are left empty, and every other name is refused, so nothing is imported and nothing called.
"""

import collections
import contextlib
import functools
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

# Where training scripts keep the weights among other things; averages are what was evaluated, and come first.
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema')
_TRAINED = ('state_dict', 'model', 'model_state_dict', 'module', 'network', 'net')
_MAGIC = 0x1950A86A20F9469CFC6C  # at the beginning of files older than torch 1.6


class StateDict(NamedTuple):
    """The weights of a file.

    Attributes:
        arrays: by name.
        taken: the key that they stand under, of several; '' where there is no choice.
    """

    arrays: dict[str, np.ndarray]
    taken: str


class _Storage(NamedTuple):
    """Numbers in a row."""

    key: str
    kind: np.dtype


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    kind: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing: parameters of before torch 0.4 have hooks for state."""


class _Empty:
    """Stands for an object beside the weights, such as the options of the run."""

    def __new__(cls, *arguments: Any, **options: Any) -> '_Empty':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing."""


class _Refused(Exception):
    """What a whole file has that is not read, as the end of a sentence about it."""


def read(path: pathlib.Path) -> StateDict:
    """Returns the weights of a file, averages where there are any.

    Raises:
        ValueError: the file is damaged, names code, or has no state dict.
    """
    with _opened(path) as (saved, storage):
        tensors, taken = _state_dict(saved)
        return StateDict({name: _array(tensor, storage(tensor.storage.key)) for name, tensor in tensors.items()}, taken)


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what `read` reads, without reading it; raises as `read` does."""
    with _opened(path) as (saved, _):
        return {name: tensor.shape for name, tensor in _state_dict(saved)[0].items()}


def _state_dict(saved: Any) -> tuple[dict[str, _Tensor], str]:
    """Returns the tensors of the state dict that the innermost key holds, and the last key that others stood beside."""
    taken = ''
    while held := _held(saved):
        saved, taken = saved[held[0]], held[0] if len(held) > 1 else taken
    pairs = saved.items() if isinstance(saved, dict) else ()
    tensors = {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, _Tensor)}
    if not tensors:
        holds = ', '.join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise _Refused(f'has no state dict; it holds {holds[:200]}: save model.state_dict() alone.')
    return tensors, taken


def _held(saved: Any) -> list[str]:
    """Returns the keys that a checkpoint keeps weights under, the first choice first."""
    return [key for key in (*_AVERAGES, *_TRAINED) if isinstance(saved, dict) and isinstance(saved.get(key), dict)]


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    numbers = np.frombuffer(data, tensor.kind)[tensor.offset :]
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, tensor.kind)
    last = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides))
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or last >= len(numbers):
        raise ValueError('a tensor reaches outside of its storage')  # and would show other memory of this process
    strides = [step * tensor.kind.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, Callable[[str], bytes]]]:
    """Yields what a file holds, tensors without their numbers, and the bytes of a storage by its key."""
    try:
        with open(path, 'rb') as file:
            yield _zipped(file) if zipfile.is_zipfile(file) else _in_a_row(file)
    except _Refused as error:
        raise ValueError(f'{path} {error}') from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pickle says that it may raise any
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(f"{path} is damaged, or not one of torch's files ({reason}): save it again.") from error


def _zipped(file: BinaryIO) -> tuple[Any, Callable[[str], bytes]]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    folder = next((name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')), None)
    if folder is None:
        raise ValueError('an archive without data.pkl')
    if f'{folder}byteorder' in names and archive.read(f'{folder}byteorder') != b'little':
        raise ValueError('its numbers are big-endian')
    saved = _Unpickler(archive.open(f'{folder}data.pkl')).load()
    return saved, functools.cache(lambda key: archive.read(f'{folder}data/{key}'))


def _in_a_row(file: BinaryIO) -> tuple[Any, Callable[[str], bytes]]:
    """As `_zipped`, of a file older than torch 1.6: five pickles, then each storage after its length in numbers."""
    file.seek(0)
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError('it begins otherwise')
    _version, _machine = (_Unpickler(file).load() for _ in range(2))
    unpickler = _Unpickler(file)
    saved, keys = unpickler.load(), _Unpickler(file).load()
    places = {}
    for key in keys:
        size = int.from_bytes(file.read(8), 'little') * unpickler.kinds[key].itemsize
        places[key] = (file.tell(), size)
        file.seek(size, 1)

    @functools.cache
    def storage(key: str) -> bytes:
        file.seek(places[key][0])
        return file.read(places[key][1])

    return saved, storage


_KINDS = {
    'Float': 'float32',
    'Double': 'float64',
    'Half': 'float16',
    'BFloat16': 'bfloat16',
    'Long': 'int64',
    'Int': 'int32',
    'Short': 'int16',
    'Char': 'int8',
    'Byte': 'uint8',
    'Bool': 'bool',
    'ComplexFloat': 'complex64',
    'ComplexDouble': 'complex128',
}
# Newer types have no storage of their own.
_BARE = (
    *(f'float8_{form}' for form in ('e4m3fn', 'e4m3fnuz', 'e5m2', 'e5m2fnuz', 'e8m0fnu')),
    *('uint16', 'uint32', 'uint64'),
)


def _kind(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    return _Tensor(storage, storage.kind, offset, tuple(shape), tuple(strides))


def _typed_tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *rest: Any) -> _Tensor:
    return _Tensor(storage, rest[2], offset, tuple(shape), tuple(strides))


# By the names that stand in a pickle. NumPy's and pathlib's own would run code; they are metrics and paths.
_NAMES: dict[str, Any] = {
    'collections.OrderedDict': collections.OrderedDict,
    'collections.Counter': collections.Counter,
    '__builtin__.set': set,
    'builtins.set': set,
    'torch._utils._rebuild_tensor': _tensor,  # before torch 0.4
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _typed_tensor,
    **dict.fromkeys(
        (
            'torch.nn.parameter.Parameter',  # before torch 0.4
            'torch._utils._rebuild_parameter',
            'torch._utils._rebuild_parameter_with_state',
        ),
        lambda data, *_: data,
    ),
    'torch.Size': tuple,
    'torch.storage.UntypedStorage': np.dtype('uint8'),
    **{f'torch.{name}Storage': _kind(kind) for name, kind in _KINDS.items()},
    **{f'torch.{kind}': _kind(kind) for kind in (*_KINDS.values(), *_BARE)},
    **dict.fromkeys(
        (
            'argparse.Namespace',
            'torch.device',
            'numpy.dtype',
            'numpy.core.multiarray.scalar',
            'numpy._core.multiarray.scalar',
            '_codecs.encode',
            'pathlib.PosixPath',
            'pathlib.WindowsPath',
        ),
        _Empty,
    ),
}


class _Unpickler(pickle.Unpickler):
    """Knows the names of `_NAMES` and no other, and keeps the types of the storages that it meets by their keys."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.kinds: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in _NAMES:
            raise _Refused(
                f'names {module}.{name}, which is neither a tensor nor a plain container and may run code: '
                'load it where you trust it, and save its state dict alone.'
            )
        return _NAMES[f'{module}.{name}']

    def persistent_load(self, found: tuple) -> _Storage:
        _, kind, key = found[:3]
        self.kinds[key] = kind
        return _Storage(key, kind)

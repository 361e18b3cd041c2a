"""Files of weights: finding them, reading them whatever their format, and writing them.

.safetensors (https://huggingface.co/docs/safetensors), one file or several with an index; PyTorch's own files, without
PyTorch (`weight_torch`); and .npz as big_vision saves it (https://github.com/google-research/big_vision, Apache-2.0).
huggingface_hub is needed for weights by owner/name alone, and not imported before.
"""

import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy

from longview.modelzoo import weight_torch

TORCH_ENDINGS = ('.pth', '.pt', '.bin', '.tar', '.ckpt')
ENDINGS = ('.safetensors', *TORCH_ENDINGS, '.npz')
_INDEX = '.index.json'
# What Hugging Face's libraries save in a folder, the first choice first.
_SAVED = ('model.safetensors', 'pytorch_model.bin')
_HUB_ID = re.compile(r'(?:hf-hub:)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?')
_TREES = ('params/', 'opt/target/')  # where an .npz has the weights beside the optimizer's state


def read(source: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns arrays by published name.

    Args:
        source: a file, by its ending one of `ENDINGS` or an index of several; a folder with one; or an id on the
            Hugging Face hub; see `locate`. Of a checkpoint with averaged weights these are read, which is said.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: huggingface_hub is needed and not installed.
        ValueError: the file is of another kind, damaged, or names code.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in _parts(locate(source)):
        arrays |= _read(path)
    return arrays


def shapes(source: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what `read` reads; but for .npz only headers are read. Raises as `read` does."""
    found: dict[str, tuple[int, ...]] = {}
    for path in _parts(locate(source)):
        found |= _shapes(path)
    return found


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a .safetensors file, marked as PyTorch's layout.

    Raises:
        ValueError: the path ends as files of another kind do.
    """
    ending = pathlib.Path(path).suffix
    if ending in ENDINGS[1:]:
        raise ValueError(f'{path} ends as a file of another kind does, and {ending} is not written: use .safetensors.')
    dense = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    file = pathlib.Path(path)
    file.touch()
    mode = file.stat().st_mode
    safetensors.numpy.save_file(dense, path, metadata={'format': 'pt'})
    file.chmod(mode)  # the library keeps its files from everybody else


def note(text: str) -> None:
    """Says what was taken where there was a choice; on one process of several."""
    if jax.process_index() == 0:
        print(f'note: {text}', flush=True)


def locate(weights: str | os.PathLike) -> pathlib.Path:
    """Returns the file, or the index of several, downloaded if it was not yet.

    Args:
        weights: a file; a folder with weights; or ``owner/name`` on the Hugging Face hub (also ``hf-hub:owner/name``),
            with ``@revision`` if not the newest. What is here comes before what is on the hub.

    Raises:
        FileNotFoundError: there is no such file, or the hub does not give it.
        ImportError: huggingface_hub is needed and not installed.
    """
    path = pathlib.Path(weights)
    if path.is_dir():
        return _in_folder(path)
    found = _HUB_ID.fullmatch(os.fspath(weights))
    if path.is_file() or not found or path.suffix in ENDINGS:
        if not path.is_file():
            raise FileNotFoundError(
                f'weights {os.fspath(weights)!r} are neither a file nor owner/name on the hub: correct the path.'
            )
        return path
    return _download(found['id'], found['revision'])


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    named = [folder / f'{name}{ending}' for name in _SAVED for ending in ('', _INDEX)]
    others = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)
    found = [path for path in named if path.is_file()] or others
    if not found or (found == others and len(others) > 1):
        held = ', '.join(path.name for path in others[:8]) or 'none'
        raise FileNotFoundError(
            f'the folder {folder} has {len(others)} files of weights ({held}) and no {_SAVED[0]}: name one file.'
        )
    return found[0]


def from_hub(name: str, repository: str, download: Callable[[Any], str]) -> pathlib.Path:
    """Returns where a file of the Hugging Face hub is, downloaded if it was not yet.

    Args:
        name: of the file.
        repository: ``owner/name``.
        download: ``huggingface_hub -> path``.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: the hub does not give it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f'{repository!r} is no file here, and fetching {name} of it from the hub needs huggingface_hub: install '
            'it, or give a file.'
        ) from error
    try:
        return pathlib.Path(download(huggingface_hub))
    except (OSError, ValueError) as error:  # its own errors are either
        reason = str(error).partition('\n')[0][:200]
        raise FileNotFoundError(
            f'cannot get {name} of {repository!r} from the Hugging Face hub: check the id and the network, or give a '
            f'file. ({type(error).__name__}: {reason})'
        ) from error


def _download(repository: str, revision: str | None) -> pathlib.Path:
    for name in _SAVED:
        stem, ending = name.split('.')
        wanted = {'revision': revision, 'allow_patterns': [name, f'{name}{_INDEX}', f'{stem}-*-of-*.{ending}']}
        folder = from_hub(name, repository, lambda hub, wanted=wanted: hub.snapshot_download(repository, **wanted))
        for found in (pathlib.Path(folder, name), pathlib.Path(folder, f'{name}{_INDEX}')):
            if found.is_file():
                return found
    raise FileNotFoundError(
        f'{repository!r} on the hub has neither {" nor ".join(_SAVED)}: download one file, give it.'
    )


def _parts(path: pathlib.Path) -> Sequence[pathlib.Path]:
    """Returns the files that an index names, or the file itself.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: it is no index.
    """
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())['weight_map'].values()))
        parts = [path.with_name(name) for name in names]  # refuses what is not a bare name
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no index of files of weights ({error}): give a file of weights.') from error
    lost = [part.name for part in parts if not part.is_file()]
    if lost:
        raise FileNotFoundError(f'{path} names {", ".join(lost[:8])}, not in that folder: fetch what is missing.')
    return parts


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.suffix in TORCH_ENDINGS:
        arrays, taken = weight_torch.read(path)
        if taken:
            note(f'of {path} the weights under {taken!r} are taken.')
        return arrays
    if path.suffix == '.npz':
        return _read_npz(path)
    start, header = _header(path)
    with open(path, 'rb') as file:
        return {name: _array(file, start, **entry) for name, entry in header.items()}


def _shapes(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    if path.suffix in TORCH_ENDINGS:
        return weight_torch.shapes(path)
    if path.suffix == '.npz':
        return {name: array.shape for name, array in _read_npz(path).items()}
    return {name: tuple(entry['shape']) for name, entry in _header(path)[1].items()}


_KINDS = {
    **{
        f'{letter}{bits}': f'{kind}{bits}' for letter, kind in (('I', 'int'), ('U', 'uint')) for bits in (8, 16, 32, 64)
    },
    **{f'F{bits}': f'float{bits}' for bits in (16, 32, 64)},
    'BOOL': 'bool',
    'BF16': ml_dtypes.bfloat16,
    'F8_E4M3': ml_dtypes.float8_e4m3fn,
    'F8_E5M2': ml_dtypes.float8_e5m2,
    'F8_E8M0': ml_dtypes.float8_e8m0fnu,
    'C64': 'complex64',
}


def _header(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns where the numbers of a .safetensors file begin, and type, shape and place of each array."""
    try:
        with safetensors.safe_open(path, 'numpy'):  # checks the header
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f'{path} is not a safetensors file ({error}): convert it with the safetensors package, or '
            f"end it in {TORCH_ENDINGS[0]} if it is one of torch's."
        ) from error
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    unknown = sorted({entry['dtype'] for entry in header.values()} - _KINDS.keys())
    if unknown:
        raise ValueError(f'{path} holds numbers of the type {unknown[0]}, which NumPy has not: convert them first.')
    return 8 + length, header


def _array(file: Any, start: int, dtype: str, shape: Sequence[int], data_offsets: Sequence[int]) -> np.ndarray:
    begin, end = data_offsets
    file.seek(start + begin)
    return np.fromfile(file, np.uint8, end - begin).view(_KINDS[dtype]).reshape(shape)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, 'rb') as file, np.load(file) as arrays:
            tree = next((tree for tree in _TREES if any(name.startswith(tree) for name in arrays)), '')
            return {name.removeprefix(tree): _numbers(arrays[name]) for name in arrays if name.startswith(tree)}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is not an .npz of plain arrays ({error}): save it with numpy.savez.') from error


def _numbers(array: np.ndarray) -> np.ndarray:
    """Returns an array of an .npz; NumPy saves bfloat16 as two bytes without a meaning."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype('V2') else array

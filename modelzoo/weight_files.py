"""Files of weights: reading and writing them, and fetching them from the Hugging Face hub.

.safetensors (https://huggingface.co/docs/safetensors) by that package. PyTorch's own files only through torch's
``weights_only``, which unpickles nothing but tensors and plain containers; torch is needed for them alone, and
huggingface_hub for the hub alone, so neither is imported before.
"""

import contextlib
import os
import pathlib
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

TORCH_ENDINGS = ('.pth', '.pt', '.bin', '.tar')
_STATE_DICTS = ('model', 'state_dict')  # where training scripts keep the weights among other things
_HUB_ID = re.compile(r'(?:hf-hub:)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?')
_HUB_FILE = 'model.safetensors'


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a .safetensors file or, by its ending, of one of torch's.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a file of torch's, and there is no torch.
        ValueError: the file is of another kind.
    """
    path = _file(path)
    if path.suffix in TORCH_ENDINGS:
        return _read_torch(path)
    with _telling(path):
        return safetensors.numpy.load_file(path)


def shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a file's arrays. Of a .safetensors file only the header is read; raises as `read` does."""
    path = _file(path)
    if path.suffix in TORCH_ENDINGS:
        return {name: array.shape for name, array in _read_torch(path).items()}
    with _telling(path), safetensors.safe_open(path, 'numpy') as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a .safetensors file, marked as PyTorch's layout.

    Raises:
        ValueError: the path ends as torch's files do.
    """
    if pathlib.Path(path).suffix in TORCH_ENDINGS:
        raise ValueError(
            f"{path} is the name of one of torch's files, which are not written here: end it in .safetensors."
        )
    dense = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    safetensors.numpy.save_file(dense, path, metadata={'format': 'pt'})


def locate(weights: str | os.PathLike) -> pathlib.Path:
    """Returns where the weights are on this machine, downloaded if they were not yet.

    Args:
        weights: a file, or ``owner/name`` on the Hugging Face hub, with ``@revision`` if not the newest.

    Raises:
        FileNotFoundError: there is no such file, or the hub does not give it.
        ImportError: huggingface_hub is needed and not installed.
    """
    path = pathlib.Path(weights)
    found = _HUB_ID.fullmatch(os.fspath(weights))
    if path.is_file() or not found or path.suffix in (*TORCH_ENDINGS, '.safetensors'):
        if not path.is_file():
            raise FileNotFoundError(
                f'weights {os.fspath(weights)!r} are neither a file nor owner/name on the hub: correct the path.'
            )
        return path
    return _download(found['id'], found['revision'])


def _download(repository: str, revision: str | None) -> pathlib.Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f'weights {repository!r} are no file here, and fetching them from the hub needs '
            'huggingface_hub: install it, or give a file.'
        ) from error
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE, revision=revision))
    except (OSError, ValueError) as error:  # its own errors are either
        reason = str(error).partition('\n')[0][:200]
        raise FileNotFoundError(
            f'cannot get {_HUB_FILE} of {repository!r} from the Hugging Face hub: check the id '
            f'and the network, or give a file. ({type(error).__name__}: {reason})'
        ) from error


def _file(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of a .safetensors file or of one of torch's.")
    return path


@contextlib.contextmanager
def _telling(path: pathlib.Path) -> Iterator[None]:
    """Says in words what is wrong with a .safetensors file that is read inside."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(
            f'{path} is not a safetensors file ({error}): convert it with the safetensors package, or '
            f"end it in {TORCH_ENDINGS[0]} if it is one of torch's."
        ) from error
    except AttributeError as error:  # a type that NumPy has not
        raise ValueError(f'{path} holds numbers of a type that NumPy has not ({error}): convert them first.') from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is one of torch's files, and reading it needs torch: install torch, or convert "
            'the file to .safetensors.'
        ) from error
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f'{path} is damaged, or holds more than tensors, which may run code when it is read: load it '
            'where you trust it, and save its state dict as .safetensors.'
        ) from error
    for key in _STATE_DICTS:
        saved = saved[key] if isinstance(saved, Mapping) and key in saved else saved
    if not isinstance(saved, Mapping) or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        holds = ', '.join(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(f'{path} has no state dict; it holds {holds[:200]}: save model.state_dict() alone.')
    # DistributedDataParallel puts its own name before each.
    return {name.removeprefix('module.'): _numpy(tensor, torch) for name, tensor in saved.items()}


def _numpy(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

"""Files that a computation writes into its workdir, in the formats that their names end with."""

import io
import json
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image


def encoded(name: str, content: Any) -> bytes:
    """Returns a file's bytes: ``.npy`` of an array, ``.json`` of plain data, ``.png`` of (H, W, C) uint8, or a text.

    Bytes pass as they are.

    Raises:
        ValueError: the name is a path.
        TypeError: the content is not what the name says.
    """
    if not name or pathlib.PurePath(name).name != name:
        raise ValueError(f'a computation made the file {name!r}: give it a name without a folder.')
    if isinstance(content, bytes):
        return content
    kind = pathlib.PurePath(name).suffix
    if kind == '.npy':
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(content), allow_pickle=False)
        return buffer.getvalue()
    if kind == '.json':
        return json.dumps(content, indent=1, sort_keys=True, default=_number).encode()
    if kind == '.png':
        array = np.asarray(content)
        if array.dtype != np.uint8 or array.ndim != 3:
            raise TypeError(f'{name} is {array.dtype}{list(array.shape)}, and an image (H, W, C) of uint8 is wanted.')
        buffer = io.BytesIO()
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, 'png')
        return buffer.getvalue()
    if not isinstance(content, str):
        raise TypeError(f'{name} is a {type(content).__name__}, and a text is wanted: name it .npy, .json or .png.')
    return content.encode()


def write(folder: pathlib.Path, name: str, content: Any) -> bytes:
    """Writes a file, completely or not at all, in the first of several processes; returns its bytes."""
    data = encoded(name, content)
    if jax.process_index() == 0:
        temporary = folder / f'.{name}.tmp'
        temporary.write_bytes(data)
        temporary.replace(folder / name)
    return data


def _number(value: Any) -> Any:
    if hasattr(value, 'tolist'):
        return value.tolist()
    raise TypeError(f'a {type(value).__name__} cannot be written as JSON: make it numbers, texts, lists or mappings.')

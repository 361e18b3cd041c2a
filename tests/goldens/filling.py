"""How goldens are stored and filled: values that follow from names, so that a file holds no weights."""

import base64
import gzip
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent
FUNCTIONS = FOLDER / 'functions'


def read(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns a golden from a .json or .json.gz file."""
    data = pathlib.Path(path).read_bytes()
    return json.loads(gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data)


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the values of a network's parameter or input: noise seeded by its name, scaled by what it is."""
    return np.asarray(_values(name, shape))  # of a shape without dimensions NumPy's sums are no arrays


def _values(name: str, shape: Sequence[int]) -> np.ndarray:
    noise = np.asarray(_generator(name).standard_normal(shape, dtype=np.float32))
    last = name.rsplit('.', 1)[-1]
    if last in ('input', 'cotangent'):
        return noise
    if last == 'running_var':
        return (1 + 0.1 * abs(noise)).astype(np.float32)
    if last == 'running_mean':
        return (0.1 * noise).astype(np.float32)
    if len(shape) >= 2 and math.prod(shape) > max(shape):
        return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    if any(word in last for word in ('weight', 'gamma', 'scale', 'alpha')):
        return (1 + 0.1 * noise).astype(np.float32)
    return (0.1 * noise).astype(np.float32)


def fill_words(shape: Sequence[int], vocabulary: int) -> np.ndarray:
    """Returns the words that a language model reads."""
    return np.random.default_rng(0).integers(0, vocabulary, shape, dtype=np.int64).astype(np.int32)


def draw(name: str, shape: Sequence[int], kind: str = 'normal', below: int | None = None) -> np.ndarray:
    """Returns an input of a function; `name` is ``GOLDEN/INPUT``.

    Args:
        name: seeds the values.
        shape: of the array.
        kind: 'normal', 'uniform', 'image', 'boolean', 'positive', 'unit' (last axis of length 1), 'probabilities' (last
            axis of sum 1) or 'integers'.
        below: bound of the integers.
    """
    rng = _generator(name)
    if kind == 'integers':
        return rng.integers(0, below, shape, dtype=np.int64)
    if kind in ('uniform', 'image'):
        return rng.random(shape, dtype=np.float32)
    if kind == 'boolean':
        return rng.random(shape, dtype=np.float32) < 0.5
    x = np.asarray(rng.standard_normal(shape, dtype=np.float32))
    if kind == 'positive':
        return (abs(x) + np.float32(0.1)).astype(np.float32)
    wide = x.astype(np.float64)
    if kind == 'unit':
        return (x / np.sqrt((wide**2).sum(-1, keepdims=True))).astype(np.float32)
    if kind == 'probabilities':
        powers = np.exp(wide - wide.max(-1, keepdims=True))
        return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    assert kind == 'normal', kind
    return x


def decode(recorded: dict[str, Any]) -> np.ndarray:
    """Returns a recorded array, in float64 or int64."""
    if 'integers' in recorded:
        return np.asarray(recorded['integers'], np.int64).reshape(recorded['shape'])
    data = base64.b64decode(recorded['float32_le_base64'])
    return np.frombuffer(data, '<f4').reshape(recorded['shape']).astype(np.float64)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'little'))

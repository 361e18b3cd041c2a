"""Goldens: what published implementations compute, kept as numbers, and the comparison with ours.

A golden records a reference network whose parameters and input are filled from a hash of their names: the shapes it
has, its output, and the gradient of ``sum(output * cotangent)`` at its input. There are no weights in it. Ours, filled
the same way through the family's name map, has to agree. The files beside this one are gzip-compressed JSON
(``gzip -9n``).

    python -m tests.goldens tests/goldens/vig_tiny.json.gz
    python -m tests.goldens vig_small.json --build '{"name": "vig_small"}'
    python -m tests.goldens mine.json --build '{"fn": "modelzoo:backbone", "variant": "pvt_v2_b1"}'
    python -m tests.goldens gla_layer.json --build '{"fn": "modelzoo.sequence.gla:GatedLinearAttention", "heads": 2}'

The input of a language model is words, which have no gradient; layers alone are compared as networks are.
"""

import base64
import functools
import gzip
import hashlib
import json
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.features import Backbone
from longview.modelzoo.heads import Classifier, Linear
from longview.runtime import resolve

FOLDER = pathlib.Path(__file__).parent
OUTPUT_BAR, GRADIENT_BAR = 1e-4, 1e-3
# Some references are so steep that their own gradient in float32 is further from float64 than the bar: their notes say
# how far. Rounding in another order may then land this many times as far.
NOISE_FACTOR = 5
# Compiling takes longer than running; the numbers do not depend on how hard the compiler tries.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
if jax.__version_info__ < (0, 11):
    QUICK['xla_cpu_use_fusion_emitters'] = False  # half the time again; later compilers have no such option
# What layers work out from their parameters when they first run, as the references do.
CONSTANTS = 'constants'


class Report(NamedTuple):
    """How ours compares with a golden.

    Attributes:
        name: the golden's.
        parameters, wanted: number of trainable values, ours and the golden's.
        output: largest difference over the output's standard deviation.
        gradient: the larger of two relative errors: of the gradient's norm, and of its recorded first values by
            root mean square.
        noise: how far the reference's own gradient in float32 is from float64, by the golden's note.
    """

    name: str
    parameters: int
    wanted: int
    output: float
    gradient: float
    noise: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the counts are equal and both errors within their bars."""
        gradient_bar = max(GRADIENT_BAR, NOISE_FACTOR * self.noise)
        return self.parameters == self.wanted and self.output <= OUTPUT_BAR and self.gradient <= gradient_bar

    def __str__(self) -> str:
        return (
            f'{self.name:24} {self.parameters:>12,} parameters   output {self.output:.1e}   '
            f'gradient {self.gradient:.1e}   {"pass" if self.passed else "FAIL"}'
        )


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the values of a parameter or an input: noise seeded by its name, scaled by what it is."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'little')
    noise = np.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
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


def read(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns a golden from a .json or .json.gz file."""
    data = pathlib.Path(path).read_bytes()
    return json.loads(gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data)


def compare(golden: dict[str, Any], build: dict[str, Any] | None = None) -> Report:
    """Builds ours, fills it as the golden was filled, and measures the differences.

    Args:
        golden: from `read`.
        build: what ours is; see `network`. By default the golden's own name.
    """
    words, shape = golden['vocabulary'], golden['input_shape']
    classes = None if words else golden['output']['shape'][-1]
    model = network(**{'num_classes': classes, **(build or {'name': golden['name']})})
    alone = not isinstance(model, Classifier)
    channels = 1 if len(shape) == 4 or (alone and '[B,H,L]' in golden['note']) else -1
    x = jnp.asarray(_words(shape, words) if words else np.moveaxis(fill('input', shape), channels, -1))
    wanted = dict(jax.eval_shape(model.init, jax.random.key(0), x))
    wanted.pop(CONSTANTS, None)
    filled = {name: fill(name, shape) for name, shape, kind in golden['state'] if kind in ('param', 'batch_stat')}
    loaded = weights.load_published(_names(model), weights.merge(wanted), filled)
    cotangent = jnp.asarray(np.moveaxis(fill('cotangent', golden['output']['shape']), channels if alone else -1, -1))
    output, gradient = _answer(model, weights.separate(loaded, wanted), x, None if words else cotangent)
    output = np.moveaxis(output, -1, channels) if alone else output
    return Report(
        golden['name'],
        sum(leaf.size for leaf in jax.tree.leaves(wanted['params'])),
        golden['parameters'],
        _output_error(golden['output'], output),
        0.0 if words else _gradient_error(golden['input_gradient'], np.moveaxis(gradient, -1, channels)),
        _noise(golden['note']),
    )


def network(*, num_classes: int | None, fn: str | None = None, **arguments: Any) -> nn.Module:
    """Returns ours for a golden.

    Args:
        num_classes: width of the logits; None for a language model.
        fn: import path of a function of a family file that makes a backbone, such as
            ``modelzoo.vision.pvt:pvt_v2``, or of a layer; without it `modelzoo.create_model` makes the network.
        **arguments: of that function, or of `modelzoo.create_model`.
    """
    if fn is None:
        return modelzoo.create_model(num_classes=num_classes, **arguments)
    made = resolve.resolve({'fn': fn, **arguments})
    if not isinstance(made, Backbone):
        return made
    return Classifier(made, Linear(num_classes) if num_classes else weights.head_of(made, None))


def _names(model: nn.Module) -> weights.Names:
    """Returns the name map of a network or of a layer, which its file has."""
    found = sys.modules[type(getattr(model, 'backbone', model)).__module__]
    if isinstance(model, Classifier):
        return found.NAMES[type(model.backbone).__name__]
    return found.NAMES if isinstance(found.NAMES, tuple) else found.MIXER_NAMES


def _words(shape: Sequence[int], vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, shape, dtype=np.int64).astype(np.int32)


def _answer(model: Any, variables: Any, x: jax.Array, cotangent: jax.Array | None) -> tuple[np.ndarray, ...]:
    """Returns the output and, where there is a cotangent, the gradient at the input."""

    def output_of(variables: Any, x: jax.Array) -> jax.Array:
        found, _ = model.apply(variables, x, mutable=[CONSTANTS])
        return found['logits'] if isinstance(found, dict) else found

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(variables: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        if cotangent is None:
            return output_of(variables, x), x
        output, pull = jax.vjp(functools.partial(output_of, variables), x)
        return output, pull(cotangent)[0]

    with jax.default_matmul_precision('highest'):
        return tuple(map(np.asarray, run(variables, x)))


def _output_error(recorded: dict[str, Any], output: np.ndarray) -> float:
    wanted = _decode(recorded)
    return float(abs(output - wanted).max() / wanted.std())


def _gradient_error(recorded: dict[str, Any], gradient: np.ndarray) -> float:
    first = _decode(recorded['first'])
    ours = gradient.ravel()[: first.size]
    norm = abs(np.linalg.norm(gradient.astype(np.float64)) / recorded['l2'] - 1)
    return float(max(norm, np.linalg.norm(ours - first) / np.linalg.norm(first)))


def _noise(note: str) -> float:
    """Returns the noise of the reference's gradient that a note states, 0 where it states none."""
    said = re.search(r'first-64 max abs difference / max = ([0-9.e-]+[0-9])', note)
    return float(said[1]) if said else 0.0


def _decode(recorded: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(recorded['float32_le_base64'])
    return np.frombuffer(data, '<f4').reshape(recorded['shape']).astype(np.float64)

"""A published network's golden, or a layer's, against ours: output, gradient at the input, number of parameters."""

import functools
import math
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.features import Backbone
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.weight_names import our_path
from longview.runtime import resolve
from tests.goldens.filling import decode, fill, fill_words

OUTPUT_BAR, GRADIENT_BAR = 1e-4, 1e-3
# Some references are so steep that their own gradient in float32 is further from float64 than the bar: their notes say
# how far. Rounding in another order may then land this many times as far.
NOISE_FACTOR = 10
# Inputs that a rounding error apart are the golden's: where a rectifier is at its kink, the gradient is one of two, and
# rounding decides which. What disagrees at all of these is no matter of rounding.
NEIGHBOURS = tuple(1 + step * 2.0**-22 for step in (-1, 1, -3, 3, -5, 5, -9, 9))
# Compiling takes longer than running; the numbers do not depend on how hard the compiler tries.
QUICK = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_parallel_codegen_split_count': 1,
}
if jax.__version_info__ < (0, 11):
    QUICK['xla_cpu_use_fusion_emitters'] = False  # half the time again; later compilers have no such option
# What layers work out from their parameters when they first run, as the references do.
CONSTANTS = 'constants'


class Network(NamedTuple):
    """A row of the table: what of ours a network's golden is of, and how near it has to be.

    Attributes:
        build: arguments of `network`; by default the golden's name is a variant's.
        output, gradient: bars, an order of magnitude above what was measured under three instruction sets (SSE4.2,
            AVX2, AVX512) and two levels of optimization; smaller bars than this would hold on some processors only.
        channels: axis of the channels in the reference's input, and in its output if that is a layer's; by default the
            second of four, else the last.
        names: map of the published names, where the file of the module has none for it.
        heavy: minutes, not seconds.
    """

    build: dict[str, Any] | None = None
    output: float = OUTPUT_BAR
    gradient: float = 1e-4
    channels: int | None = None
    names: weights.Names | None = None
    heavy: bool = False


class Report(NamedTuple):
    """How ours compares with a golden.

    Attributes:
        name: the golden's.
        parameters, wanted: number of trainable values, ours and the golden's without those that its family's map of
            names passes over, for no answer depends on them.
        output: largest difference over the output's standard deviation.
        gradient: the larger of two relative errors: of the gradient's norm, and of its recorded first values by
            root mean square.
        output_bar, gradient_bar: what these may be.
    """

    name: str
    parameters: int
    wanted: int
    output: float
    gradient: float
    output_bar: float = OUTPUT_BAR
    gradient_bar: float = GRADIENT_BAR

    @property
    def passed(self) -> bool:
        """Whether the counts are equal and both errors within their bars."""
        within = self.output <= self.output_bar and self.gradient <= self.gradient_bar
        return self.parameters == self.wanted and within

    def __str__(self) -> str:
        said = (
            f'{self.name:28} {self.parameters:>12,} parameters',
            f'output {self.output:.1e} (bar {self.output_bar:.0e})',
            f'gradient {self.gradient:.1e} (bar {self.gradient_bar:.0e})',
            'pass' if self.passed else 'FAIL',
        )
        return '   '.join(said)


def compare(golden: dict[str, Any], row: Network | None = None) -> Report:
    """Builds ours, fills it as the golden was filled, and measures the differences.

    Args:
        golden: from `read`.
        row: what ours is. By default a variant of the golden's name, held to the bars of all goldens.
    """
    noise = NOISE_FACTOR * noise_of(golden['note'])
    row = row or Network(gradient=max(GRADIENT_BAR, noise))
    words, shape = golden['vocabulary'], golden['input_shape']
    classes = None if words else golden['output']['shape'][-1]
    model = network(**{'num_classes': classes, **(row.build or {'name': golden['name']})})
    alone = not isinstance(model, Classifier)
    # Names of JAX's arrays, which are in our layout, have slashes in files.
    of_jax = golden.get('layout') == 'NHWC'
    channels = (1 if len(shape) == 4 and not of_jax else -1) if row.channels is None else row.channels
    x = jnp.asarray(fill_words(shape, words) if words else np.moveaxis(fill('input', shape), channels, -1))
    wanted = dict(jax.eval_shape(model.init, jax.random.key(0), x))
    wanted.setdefault('params', {})
    wanted.pop(CONSTANTS, None)
    named = lambda name: name.replace('.', '/') if of_jax else name
    filled = {
        named(name): fill(name, shape) for name, shape, kind in golden['state'] if kind in ('param', 'batch_stat')
    }
    names = _names(model) if row.names is None else row.names
    variables = weights.separate(weights.load_published(names, weights.merge(wanted), filled), wanted)
    unread = [shape for name, shape, kind in golden['state'] if kind == 'param' and our_path(names, name) == '']
    # An output of another rank than the input is no map of channels, whatever axis the input has them on.
    output_shape = golden['output']['shape']
    out_channels = channels if alone and len(output_shape) == len(shape) else -1
    cotangent = None if words else jnp.asarray(np.moveaxis(fill('cotangent', output_shape), out_channels, -1))
    run = _program(model, variables, cotangent)
    output, gradient = run(x)

    def gradient_error(gradient: np.ndarray) -> float:
        return _gradient_error(golden['input_gradient'], np.moveaxis(gradient, -1, channels))

    error = 0.0 if words else gradient_error(gradient)
    for factor in () if words else NEIGHBOURS:
        if error <= row.gradient:
            break
        error = min(error, gradient_error(run(x * jnp.float32(factor))[1]))
    return Report(
        golden['name'],
        sum(leaf.size for leaf in jax.tree.leaves(wanted['params'])),
        golden['parameters'] - sum(map(math.prod, unread)),
        _output_error(golden['output'], np.moveaxis(output, -1, out_channels)),
        error,
        row.output,
        row.gradient,
    )


def network(*, num_classes: int | None, fn: str | None = None, **arguments: Any) -> nn.Module:
    """Returns ours for a golden.

    Args:
        num_classes: width of the logits; None for a language model.
        fn: import path of a function that makes a backbone, such as ``modelzoo:backbone``, or of a layer; without it
            `modelzoo.create_model` makes the network.
        **arguments: of that function, or of `modelzoo.create_model`.
    """
    if fn is None:
        return modelzoo.create_model(num_classes=num_classes, **arguments)
    made = resolve.resolve({'fn': fn, **arguments})
    if not isinstance(made, Backbone):
        return made
    return Classifier(made, Linear(num_classes) if num_classes else weights.head_of(made, None))


def noise_of(note: str) -> float:
    """Returns the noise of the reference's gradient that a note states, 0 where it states none."""
    said = re.search(r'first-64 max abs difference / max = ([0-9.e-]+[0-9])', note)
    return float(said[1]) if said else 0.0


def _names(model: nn.Module) -> weights.Names:
    """Returns the name map of a network or of a layer, which its file has."""
    found = sys.modules[type(getattr(model, 'backbone', model)).__module__]
    if isinstance(model, Classifier):
        return found.NAMES[type(model.backbone).__name__]
    return found.NAMES if isinstance(found.NAMES, tuple) else found.MIXER_NAMES


def _program(
    model: nn.Module, variables: Any, cotangent: jax.Array | None
) -> Callable[[jax.Array], tuple[np.ndarray, ...]]:
    """Returns the function from the input to the output and, where there is a cotangent, the gradient at the input."""

    def output_of(variables: Any, x: jax.Array) -> jax.Array:
        found, _ = model.apply(variables, x, mutable=[CONSTANTS])
        found = found['logits'] if isinstance(found, dict) else found
        return found[-1] if isinstance(found, tuple) else found

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(variables: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        if cotangent is None:
            return output_of(variables, x), x
        output, pull = jax.vjp(functools.partial(output_of, variables), x)
        return output, pull(cotangent)[0]

    def answer(x: jax.Array) -> tuple[np.ndarray, ...]:
        with jax.default_matmul_precision('highest'):
            return tuple(jax.device_get(run(variables, x)))

    return answer


def _output_error(recorded: dict[str, Any], output: np.ndarray) -> float:
    wanted = decode(recorded)
    return float(abs(output - wanted).max() / wanted.std())


def _gradient_error(recorded: dict[str, Any], gradient: np.ndarray) -> float:
    first = decode(recorded['first'])
    ours = gradient.ravel()[: first.size]
    norm = abs(math.sqrt(np.sum(np.square(gradient, dtype=np.float64))) / recorded['l2'] - 1)
    return float(max(norm, np.linalg.norm(ours - first) / np.linalg.norm(first)))

"""A published function's golden (a loss, a rule, a selection, a metric) against ours: outputs and gradients."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.runtime import resolve
from tests.goldens.filling import decode, draw

OUTPUT_BAR, GRADIENT_BAR = 1e-5, 1e-4


class Function(NamedTuple):
    """A row of the table: which function of ours a golden is of, and how its arguments are called there.

    Attributes:
        fn: import path of ours, or of an adapter (adapters.py) where ours has another form. It returns an array where
            the golden has one output, else a mapping by the golden's names of them.
        arguments: our argument -> the golden's input; inputs of the same name need no entry.
        settings: our argument -> the golden's setting, likewise.
        constants: arguments that the golden has no name for.
        only: the outputs that are compared; by default all. What is left out is not ours, and the reason stands beside
            the row.
        gradients: whether these are compared; not where an output that is left out has a part in them.
        output, gradient: bars, of an output's and a gradient's largest value.
        heavy: minutes, not seconds.
    """

    fn: str
    arguments: Mapping[str, str] = {}
    settings: Mapping[str, str] = {}
    constants: Mapping[str, Any] = {}
    only: tuple[str, ...] | None = None
    gradients: bool = True
    output: float = OUTPUT_BAR
    gradient: float = GRADIENT_BAR
    heavy: bool = False


class FunctionReport(NamedTuple):
    """How ours compares with a golden; errors by output and by gradient, relative to the largest value of each."""

    name: str
    outputs: dict[str, float]
    gradients: dict[str, float]
    output_bar: float = OUTPUT_BAR
    gradient_bar: float = GRADIENT_BAR

    @property
    def passed(self) -> bool:
        """Whether there are outputs and all errors are within their bars."""
        within = [*(e <= self.output_bar for e in self.outputs.values())]
        within += [e <= self.gradient_bar for e in self.gradients.values()]
        return bool(self.outputs) and all(within)

    def __str__(self) -> str:
        said = [f'{name} {error:.1e}' for name, error in self.outputs.items()]
        said += [f'd {name} {error:.1e}' for name, error in self.gradients.items()]
        return f'{self.name:28} {"   ".join(said)}   {"pass" if self.passed else "FAIL"}'


def compare(golden: dict[str, Any], row: Function) -> FunctionReport:
    """Calls ours with the golden's inputs and measures the differences.

    Args:
        golden: from `read`.
        row: what ours is.

    Raises:
        ValueError: the row names inputs or settings that the golden has not, or leaves out some that it has.
    """
    inputs = {
        name: draw(f'{golden["name"]}/{name}', spec['shape'], spec['kind'], spec.get('below'))
        for name, spec in golden['inputs'].items()
    }
    call = _bound(row, golden, inputs)
    wanted = {name: decode(recorded) for name, recorded in golden['outputs'].items() if name in (row.only or [name])}
    traced = {name: jnp.asarray(inputs[name]) for name in golden['gradients']}

    def run(traced: dict[str, jax.Array]) -> dict[str, Any]:
        found = call({**inputs, **traced})
        return found if isinstance(found, Mapping) else dict.fromkeys(wanted, found)

    found = {name: np.asarray(array) for name, array in jax.device_get(run(traced)).items()}
    missing = wanted.keys() - found.keys()
    if missing:
        raise ValueError(
            f'{row.fn} answers {sorted(found)} and the golden {golden["name"]} also has {sorted(missing)}.'
        )
    floating = [name for name, recorded in golden['outputs'].items() if name in wanted and 'integers' not in recorded]

    def pulled(traced: dict[str, jax.Array]) -> jax.Array:
        out = run(traced)
        return sum(jnp.sum(out[name] * _cotangent(golden['name'], name, wanted[name].shape)) for name in floating)

    gradients = jax.device_get(jax.grad(pulled)(traced)) if traced and row.gradients else {}
    return FunctionReport(
        golden['name'],
        {name: _error(found[name], array) for name, array in wanted.items()},
        {name: _error(gradients[name], decode(golden['gradients'][name])) for name in gradients},
        row.output,
        row.gradient,
    )


def _bound(row: Function, golden: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
    """Returns ours as a function of the golden's inputs by their names."""
    fn = resolve.locate(row.fn)
    arguments = _renamed(row.arguments, inputs, golden['name'], 'input')
    settings = _renamed(row.settings, golden['settings'], golden['name'], 'setting')
    takes = inspect.signature(fn).parameters
    unread = [theirs for ours, theirs in arguments.items() if ours not in takes]
    if unread and row.only is None:
        raise ValueError(
            f'{row.fn} reads no {", ".join(unread)}, which the golden {golden["name"]} has: map it in the row.'
        )
    arguments, settings = ({o: t for o, t in names.items() if o in takes} for names in (arguments, settings))
    fixed = {**{ours: golden['settings'][theirs] for ours, theirs in settings.items()}, **row.constants}
    return lambda given: fn(**{ours: given[theirs] for ours, theirs in arguments.items()}, **fixed)


def _renamed(names: Mapping[str, str], known: Mapping[str, Any], golden: str, what: str) -> dict[str, str]:
    """Returns our name -> the golden's name of all inputs or settings."""
    unknown = set(names.values()) - set(known)
    if unknown:
        raise ValueError(f'the golden {golden} has no {what} {", ".join(sorted(unknown))}; it has {", ".join(known)}.')
    said = set(names.values())
    return {**{name: name for name in known if name not in said}, **names}


def _cotangent(golden: str, output: str, shape: tuple[int, ...]) -> np.ndarray | float:
    return draw(f'{golden}/cotangent/{output}', shape) if shape else 1.0


def _error(ours: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest difference over the largest value; infinity where the shapes differ."""
    if ours.shape != wanted.shape:
        return float('inf')
    largest = abs(wanted).max(initial=0) or 1.0
    return float(abs(ours.astype(np.float64) - wanted).max(initial=0) / largest)

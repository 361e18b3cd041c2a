"""Weight conditioning: a network computes with kernels whose rows all have length 1.

Saratchandran, Wang and Lucey, 2024, "Weight Conditioning for Smooth Optimization of Neural Networks",
https://arxiv.org/abs/2409.03424, ECCV 2024: in place of a matrix W (out, in) the forward pass sees ``E W`` with
``E = diag(1 / |w_i|)`` over its rows, which is row equilibration. Among all diagonal matrices in this place its
condition number is the smallest but for a factor of at most sqrt(out) (van der Sluis, 1969,
https://doi.org/10.1007/BF02165096). There is no public code. Weight normalization (Salimans and Kingma, 2016,
https://arxiv.org/abs/1602.07868) is the same with a trained length for each row, ``diag(g) E W``: `gain`.

Our kernels are (*window, in, out), so a row is all of a kernel that one output channel has. Choices that the paper
leaves open: gradients go through E, the last layers keep their weights, a row of zeros stays zero.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class Conditioned(Reparam):
    """Trains `inner` with the selected kernels divided by the lengths of their rows.

    Attributes:
        pattern: regular expression of the paths of the kernels concerned; their last axis is the output channel.
        gain: whether each row has a trained length, first its own, as weight normalization has it. The parameter at
            the path is then a mapping of ``direction``, the kernel, and ``gain``.
        measured: whether each step reports the mean condition number of these kernels as matrices, before
            (``raw_condition``) and after (``condition``); that takes the singular values of each.
    """

    pattern: str = 'backbone/.*kernel'
    gain: bool = False
    measured: bool = False

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        paths = select(v.params, self.pattern, 'Conditioned')
        for path, leaf in by_path(v.params).items():
            if path in paths and leaf.ndim < 2:
                raise ValueError(
                    f'Conditioned: {path} has shape {tuple(leaf.shape)}, which has no rows: let the pattern '
                    f'{self.pattern!r} match kernels alone.'
                )
        divided = lambda path, w: {'direction': w, 'gain': lengths(w).reshape(-1)}
        params = on_selected(divided, paths, v.params) if self.gain else v.params
        return Variables(params, {'inner': v.state}, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        paths, params = self._paths(v.params), v.params
        if self.gain:
            params = jax.tree.map(lambda x: _scaled(x) if _is_divided(x) else x, params, is_leaf=_is_divided)
        else:
            params = on_selected(lambda path, w: conditioned(w), paths, params)
        return Variables(params, v.state['inner'], v.fixed['inner'])

    def report(self, v: Variables) -> Metrics:
        if not self.measured:
            return {}
        leaves = by_path(jax.lax.stop_gradient(v.params))
        kernels = [leaves[f'{path}/direction' if self.gain else path] for path in self._paths(v.params)]
        mean = lambda numbers: sum(numbers) / len(kernels)
        return {
            'raw_condition': mean(map(condition_number, kernels)),
            'condition': mean(condition_number(conditioned(w)) for w in kernels),
        }

    def _paths(self, params: Any) -> tuple[str, ...]:
        """Returns the paths of the kernels as the inner task knows them."""
        plain = jax.tree.map(lambda x: x['direction'] if _is_divided(x) else x, params, is_leaf=_is_divided)
        return select(plain, self.pattern, 'Conditioned')


def _is_divided(x: Any) -> bool:
    return isinstance(x, dict) and set(x) == {'direction', 'gain'}


def _scaled(parts: dict[str, Array]) -> Float[Array, '*n o']:
    direction, gain = parts['direction'], parts['gain']
    return conditioned(direction) * gain.reshape((1,) * (direction.ndim - 1) + (-1,))


def lengths(weight: Float[Array, '*n o']) -> Float[Array, '*one o']:
    """Returns the Euclidean length of each row, as broad as the weight; that of a row of zeros is 1."""
    squares = jnp.sum(weight * weight, axis=tuple(range(weight.ndim - 1)), keepdims=True)
    # The root's slope at 0 is infinite.
    return jnp.sqrt(jnp.where(squares > 0, squares, 1.0))


def conditioned(weight: Float[Array, '*n o']) -> Float[Array, '*n o']:
    """Returns the weight with rows of length 1."""
    return weight / lengths(weight)


def condition_number(weight: Float[Array, '*n o']) -> Float[Array, '']:
    """Returns the largest singular value over the smallest, of the weight as a matrix; at most 1 / float32's epsilon.

    A matrix without full rank has none; the bound keeps means and logs finite.
    """
    rows = weight.reshape(math.prod(weight.shape[:-1]), -1).astype(jnp.float32)
    singular = jnp.linalg.svd(rows, compute_uv=False)
    return singular[0] / jnp.maximum(singular[-1], jnp.finfo(jnp.float32).eps * singular[0])

"""LoRA and PiSSA: a frozen weight plus a trained matrix of low rank; the two differ in how they start.

Hu et al., 2021, "LoRA", https://arxiv.org/abs/2106.09685: ``W + (alpha / r) B A`` with B = 0 at the start. Meng et al.,
2024, "PiSSA", https://arxiv.org/abs/2404.02948: the factors start as the first r singular triples of W, and what is
left of W is frozen. References: https://github.com/microsoft/LoRA (MIT), https://github.com/GraphPKU/PiSSA (MIT).

Our kernels are (*window, in, out), so ``x (down up)`` is LoRA's ``B A x``: `down` is its A and `up` its B. Windows of
convolutions count as inputs. Where we differ: PiSSA has one exact decomposition here, not the randomized one.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from longview.methods.reparam import Reparam, select
from longview.methods.task import Batch, Given, Shapes, Variables
from longview.trees import path_of

Matrix = Float[Array, 'i o']
# (weight, rank, scale, key) -> down, up, base, with base + scale * down @ up equal to the weight.
Division = Callable[[Matrix, int, float, Key[Array, '']], tuple[Matrix, Matrix, Matrix]]


def lora(
    weight: Float[Array, 'i o'], rank: int, scale: float, key: Key[Array, '']
) -> tuple[Float[Array, 'i r'], Float[Array, 'r o'], Float[Array, 'i o']]:
    """LoRA's start: `down` uniform as torch starts a linear layer, `up` zero, all of the weight frozen."""
    del scale
    bound = 1 / math.sqrt(weight.shape[0])
    down = jax.random.uniform(key, (weight.shape[0], rank), weight.dtype, -bound, bound)
    return down, jnp.zeros((rank, weight.shape[1]), weight.dtype), weight


def pissa(
    weight: Float[Array, 'i o'], rank: int, scale: float, key: Key[Array, '']
) -> tuple[Float[Array, 'i r'], Float[Array, 'r o'], Float[Array, 'i o']]:
    """PiSSA's start: ``U_r sqrt(S_r)`` and ``sqrt(S_r) V_r^T`` over the root of the scale, the rest frozen."""
    del key
    u, s, v = jnp.linalg.svd(weight.astype(jnp.float32), full_matrices=False)
    root = jnp.sqrt(s[:rank] / scale)
    down, up = u[:, :rank] * root[None], root[:, None] * v[:rank]
    return down.astype(weight.dtype), up.astype(weight.dtype), (weight - scale * (down @ up)).astype(weight.dtype)


class _Parts(NamedTuple):
    """What one parameter becomes; None where there is no such part."""

    trained: Any
    frozen: Array | None


def _is_parts(x: Any) -> bool:
    return isinstance(x, _Parts)


@dataclasses.dataclass(frozen=True)
class LowRank(Reparam):
    """Trains `inner` with ``base + alpha / rank * down @ up`` in place of the selected weights.

    All else that `inner` trains is frozen, but for what `trained` matches. What is frozen is made anew, not saved, when
    a run goes on.

    Attributes:
        rank: of the sum.
        alpha: the sum is multiplied by alpha / rank; None for alpha = rank, as PiSSA has it.
        start: how a matrix is divided at the beginning, `lora` or `pissa`.
        pattern: regular expression of the paths of the matrices and kernels concerned.
        trained: regular expression of paths that train as they are, such as a new head; what it matches is not
            concerned. '' for none.
    """

    rank: int
    alpha: float | None = None
    start: Division = lora
    pattern: str = '.*kernel'
    trained: str = 'head/.*'

    fixes_networks = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f'LowRank.rank is {self.rank}: it must be at least 1.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        free = self._free(v.params)
        paths = tuple(p for p in select(v.params, self.pattern, 'LowRank') if p not in free)
        if not paths:
            raise ValueError(f'LowRank: {self.trained!r} leaves nothing of what {self.pattern!r} matches: narrow it.')
        keys = dict(zip(paths, jax.random.split(jax.random.fold_in(rng, self.rank), len(paths))))

        def divide(key_path: Any, weight: Array) -> _Parts:
            path = path_of(key_path)
            if path in keys:
                return self._split(path, weight, keys[path])
            return _Parts(weight, None) if path in free else _Parts(None, weight)

        parts = jax.tree_util.tree_map_with_path(divide, v.params)
        params, base = (jax.tree.map(lambda part: part[i], parts, is_leaf=_is_parts) for i in range(2))
        return Variables(params, {'inner': v.state}, {'inner': v.fixed, 'base': base})

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        """Reads all that the inner task begins with, for the base is made of it."""
        del fixed_only
        return self.inner.given(batch)

    def view(self, v: Variables) -> Variables:
        params = jax.tree.map(self._sum, v.fixed['base'], v.params, is_leaf=lambda x: x is None)
        return Variables(params, v.state['inner'], v.fixed['inner'])

    @property
    def _scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def _free(self, params: Any) -> tuple[str, ...]:
        return select(params, self.trained, 'LowRank.trained') if self.trained else ()

    def _split(self, path: str, weight: Array, key: Array) -> _Parts:
        if weight.ndim < 2 or min(math.prod(weight.shape[:-1]), weight.shape[-1]) < self.rank:
            raise ValueError(
                f'LowRank: {path} has shape {tuple(weight.shape)}, which has no rank {self.rank}: lower '
                'the rank, or leave it out of the pattern.'
            )
        down, up, base = self.start(weight.reshape(-1, weight.shape[-1]), self.rank, self._scale, key)
        return _Parts({'down': down, 'up': up}, base.reshape(weight.shape))

    def _sum(self, base: Array | None, trained: Any) -> Array:
        if base is None or trained is None:
            return trained if base is None else base
        return base + (self._scale * (trained['down'] @ trained['up'])).reshape(base.shape)

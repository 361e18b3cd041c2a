"""Trained rank pruning: every few steps the weights become their own low-rank approximation, and train on from there.

Xu et al., 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", https://arxiv.org/abs/2004.14566, and
Xu et al., 2019, https://arxiv.org/abs/1910.04576. With T the approximation of W that keeps a share of the squared
singular values, a step is ``W <- T - rate * (gradient at T + lambda U V^T)`` every m steps, where U and V are the
singular vectors that T has kept and ``U V^T`` is the sub-gradient of its nuclear norm, and a plain one in between. What
is left at the end is decomposed into pairs of layers without more training (`methods.prune.decompose`). Reference:
https://github.com/yuhuixu1993/Trained-Rank-Pruning (it names no licence), whose energy, 0.9, and lambda, 0.0003, are
the defaults.

Where we differ: the first approximation comes after m steps and not before the first one; the network is evaluated at
the ranks of the last approximation, where the reference cuts the finished weights at a small singular value.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.prune.decompose import SCHEMES, Factors, factors_of, kernel_of, matrix_of
from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class TrainedRank(Reparam):
    """Trains `inner` with weights that are of low rank after every so many steps; is evaluated with these ranks.

    Evaluation decomposes the weights anew with each batch.

    Attributes:
        every: m above.
        energy: share of the sum of squared singular values that an approximation keeps at least.
        nuclear_weight: lambda above; 0 for none.
        scheme: which matrix a convolution is, 'channel' or 'spatial'; see `methods.prune.decompose`.
        pattern: regular expression of the paths of the kernels concerned. Those of convolutions in groups do not
            become two layers.
    """

    every: int = 20
    energy: float = 0.9
    nuclear_weight: float = 3e-4
    scheme: str = 'channel'
    pattern: str = '.*kernel'

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f'TrainedRank.every is {self.every}: it is a number of steps, at least 1.')
        if not 0 < self.energy < 1:
            raise ValueError(f'TrainedRank.energy is {self.energy}: it is a share, above 0 and below 1.')
        if self.scheme not in SCHEMES:
            raise ValueError(f'TrainedRank.scheme is {self.scheme!r}: use one of {", ".join(SCHEMES)}.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        leaves = by_path(v.params)
        chosen = {path: leaves[path] for path in select(v.params, self.pattern, 'TrainedRank')}
        rank = {path: jnp.int32(self._full_rank(path, kernel.shape)) for path, kernel in chosen.items()}
        state = {'inner': v.state, 'rank': rank, 'pull': jax.tree.map(jnp.zeros_like, chosen)}
        return Variables(v.params, state, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        return Variables(v.params, v.state['inner'], v.fixed['inner'])

    def deploy(self, v: Variables) -> Variables:
        rank = v.state['rank']
        cut = lambda path, kernel: approximated(kernel, self.scheme, lambda s: rank[path])[0]
        return self.view(v._replace(params=on_selected(cut, tuple(rank), v.params)))

    def penalty(self, v: Variables) -> Float[Array, '']:
        """Returns lambda times the nuclear norm, with its sub-gradient; 0 but for the steps after an approximation."""
        leaves = by_path(v.params)
        return self.nuclear_weight * sum(jnp.vdot(pull, leaves[path]) for path, pull in v.state['pull'].items())

    def report(self, v: Variables) -> Metrics:
        """Returns ``kept``, the share of the selected kernels' parameters that is left when layers become two."""
        shapes = {path: self._matrix(pull.shape) for path, pull in v.state['pull'].items()}
        left = sum(
            jnp.minimum(rank * sum(shapes[path]), math.prod(shapes[path])) for path, rank in v.state['rank'].items()
        )
        return {'kept': left / sum(map(math.prod, shapes.values()))}

    def advance(self, v: Variables, step: Int[Array, '']) -> Variables:
        rest = lambda v: v._replace(state={**v.state, 'pull': jax.tree.map(jnp.zeros_like, v.state['pull'])})
        return jax.lax.cond((step + 1) % self.every == 0, self._approximate, rest, v)

    def factors(self, v: Variables) -> dict[str, Factors]:
        """Returns what is deployed: by path, the two layers in place of one; where these are not smaller, it stays.

        Not to be jitted, for ranks become shapes. What stays has its kernel in ``deploy(v)``.
        """
        leaves, ranks = by_path(v.params), {path: int(rank) for path, rank in v.state['rank'].items()}
        shapes = {path: self._matrix(leaves[path].shape) for path in ranks}
        return {
            path: factors_of(leaves[path], rank, self.scheme)
            for path, rank in ranks.items()
            if rank * sum(shapes[path]) < math.prod(shapes[path])
        }

    def _approximate(self, v: Variables) -> Variables:
        leaves, low, pull, rank = by_path(v.params), {}, {}, {}
        for path in v.state['rank']:
            low[path], pull[path], rank[path] = approximated(
                leaves[path], self.scheme, lambda s: rank_for(s, self.energy)
            )
        params = on_selected(lambda path, _: low[path], tuple(low), v.params)
        return v._replace(params=params, state={**v.state, 'rank': rank, 'pull': pull})

    def _matrix(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return jax.eval_shape(lambda x: matrix_of(x, self.scheme), jax.ShapeDtypeStruct(shape, jnp.float32)).shape

    def _full_rank(self, path: str, shape: tuple[int, ...]) -> int:
        axes = {'channel': (2, 4), 'spatial': (4,)}[self.scheme]
        full = min(self._matrix(shape)) if len(shape) in axes else 0
        if full < 2:
            raise ValueError(
                f'TrainedRank: {path} has shape {tuple(shape)}, which does not decompose by '
                f'{self.scheme}: leave it out of the pattern.'
            )
        return full


def rank_for(singular: Float[Array, ' r'], energy: float) -> Int[Array, '']:
    """Returns the smallest rank, at least 1, that keeps a share of the squared singular values, which fall."""
    power = singular**2
    # A value is needed where those before it do not suffice.
    needed = jnp.cumsum(power) - power < energy * jnp.sum(power)
    return jnp.maximum(jnp.sum(needed), 1).astype(jnp.int32)


def approximated(
    kernel: Float[Array, '*window i o'], scheme: str, choose: Callable[[Float[Array, ' r']], Int[Array, '']]
) -> tuple[Float[Array, '*window i o'], Float[Array, '*window i o'], Int[Array, '']]:
    """Returns a kernel's nearest one of some rank, the sub-gradient ``U V^T`` of that one's nuclear norm, and the rank.

    Args:
        kernel: (*window, in, out).
        scheme: see `decompose.matrix_of`.
        choose: singular values -> rank; it may be traced, for what is above it is masked, not cut off.
    """
    u, s, vt = jnp.linalg.svd(matrix_of(kernel, scheme).astype(jnp.float32), full_matrices=False)
    rank = choose(s)
    keep = (jnp.arange(len(s)) < rank).astype(jnp.float32)
    low, pull = (
        kernel_of((u * scale[None]) @ vt, kernel.shape, scheme).astype(kernel.dtype) for scale in (keep * s, keep)
    )
    return low, pull, rank

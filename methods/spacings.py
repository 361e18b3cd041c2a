"""Keeps the positions of dilated convolutions with learnable spacings inside their kernels, and apart.

Khalfaoui-Hassani et al., 2021, "Dilated convolution with learnable spacings", https://arxiv.org/abs/2112.03740;
reference https://github.com/K-H-Ismail/ConvNeXt-dcls (MIT), commit aad45f3. After each step positions are set back to
the kernel's rim. Weights closer than a pixel repel each other: the loss gets the square of

    mean over kernels of 2 / (K (K - 1)) sum_{k < l} max(0, 1 - |p_k - p_l|)

averaged over the parameters of positions; one that several layers share counts once. The published recipe lets it begin
after 21 of 300 epochs, and gives positions five times the rate and no decay (``base.apart(optimizer, 'positions',
5.0)`` of a config). The layer is modelzoo/layers/convolutions/dcls.py.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.reparam import on_selected, select
from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class Spacings(Wrapper):
    """Task -> Task: trains `inner`, whose network has convolutions with learnable spacings.

    The repulsion, before it is squared, is logged as ``repulsion``.

    Attributes:
        bound: how far from the middle of their kernel positions may be, in pixels: half of its side, rounded down.
        repulsion: factor of the squared repulsion; 1 as published, 0 for none.
        begins: the first step with the repulsion.
        pattern: regular expression of the whole paths of positions.
    """

    bound: float
    repulsion: float = 1.0
    begins: int = 0
    pattern: str = '.*positions'

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise ValueError(f'Spacings.bound is {self.bound}: give half the side of the kernels, more than 0.')
        if self.repulsion < 0 or self.begins < 0:
            raise ValueError(
                f'Spacings.repulsion is {self.repulsion} from step {self.begins} on: neither can be negative.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        select(v.params, self.pattern, 'Spacings')
        return v

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        loss, (state, metrics) = self.inner.loss(v, batch, rng, step)
        params = by_path(v.params)
        closeness = [nearness(params[path]) for path in select(v.params, self.pattern, 'Spacings')]
        repulsion = sum(closeness) / len(closeness)
        factor = jnp.where(step >= self.begins, self.repulsion, 0.0)
        return loss + factor * repulsion**2, (state, {**metrics, 'repulsion': repulsion})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        v = self.inner.after(v, grads, step)
        paths = select(v.params, self.pattern, 'Spacings')
        inside = lambda path, positions: jnp.clip(positions, -self.bound, self.bound)
        return v._replace(params=on_selected(inside, paths, v.params))


def nearness(positions: Float[Array, 'axes d c k']) -> Float[Array, '']:
    """Returns how near to each other the weights of kernels are: 0 where all are a pixel apart, 1 where all are one."""
    count = positions.shape[-1]
    if count == 1:
        return jnp.zeros((), positions.dtype)
    first, second = jnp.triu_indices(count, 1)
    squares = jnp.sum((positions[..., first] - positions[..., second]) ** 2, axis=0)
    # The root has no gradient at 0, where the published one is 0.
    distances = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return jnp.mean(jnp.maximum(1 - distances, 0.0))

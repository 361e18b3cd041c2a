"""Sharpness-aware minimization: the gradient from the worst place nearby.

Foret et al., 2021, https://arxiv.org/abs/2010.01412, equations 2 and 3 with p = 2: ``e = rho * g / |g|`` and the step
follows the gradient at ``w + e``, without the second-order term. References: https://github.com/google-research/sam
(Apache-2.0), https://github.com/davda54/sam (MIT). A task and not a gradient transformation, for it needs a second
gradient of the same batch. Of a step in microbatches each has its own e, as each device has in the paper; batch
statistics are those of the first pass.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from longview.methods.task import Batch, Metrics, Variables, Wrapper


@dataclasses.dataclass(frozen=True)
class Sam(Wrapper):
    """Task -> Task: `inner`, whose loss is that of the perturbed weights; ``flat_loss`` is that of the others.

    Attributes:
        rho: length of the perturbation of all weights together.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise ValueError(f'Sam.rho is {self.rho}: it must be above 0; leave Sam out for plain training.')

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        of = lambda params: self.inner.loss(v._replace(params=params), batch, rng, step)
        still = jax.lax.stop_gradient(v.params)
        (flat, (state, metrics)), grads = jax.value_and_grad(of, has_aux=True)(still)
        scale = self.rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        worst = jax.tree.map(lambda p, g: p + jax.lax.stop_gradient(scale * g).astype(p.dtype), v.params, grads)
        loss, _ = of(worst)
        return loss, (state, {**metrics, 'loss': loss, 'flat_loss': flat})

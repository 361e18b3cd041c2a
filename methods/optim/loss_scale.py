"""Dynamic loss scaling, for networks that compute in float16: on GPUs without bfloat16, such as NVIDIA's T4.

The smallest float16 is 6e-8, and gradients of activations are often smaller. Micikevicius et al., 2018, "Mixed
Precision Training", https://arxiv.org/abs/1710.03740, section 3.2: the loss is multiplied by a scale, so that they are
not, and the gradients of the weights, which are float32, are divided by it. The scale is doubled after so many good
steps in a row; a step whose gradients overflow is left out and the scale halved. The numbers are those of
torch.amp.GradScaler (BSD-3), which has no largest and no smallest scale.

Nothing of this is needed for bfloat16, whose smallest number is that of float32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper

_LARGEST = 2.0**24


@dataclasses.dataclass(frozen=True)
class LossScale(Wrapper):
    """Task -> Task: `inner`, whose gradients are computed at a scale and are the same but for what would underflow.

    Its loss and its gradients are those of `inner`, so all that sees them (clipping, logged norms, the sum over
    microbatches, other wrappers) has nothing to do with the scale. ``loss_scale`` is logged, and ``skipped``, the share
    of steps that were left out, each one step late; their loss is logged, their norms count as 0. A step that is left
    out still counts as a step, but not in the optimizer, whose schedule falls behind by it; what a method does after
    certain steps, as `Prune` does, it does not do after that one. If the loss itself is not finite, or the gradients at
    the scale 1 are not, no scale helps: the run ends as others do.

    A microbatch is a mean over fewer examples, whose gradients are larger: it may overflow where the whole batch does
    not, and then another step is left out. The wrapper may stand inside of others or around them. Not around `Sam`,
    which takes a gradient of its own without the scale; inside of it, an overflow in the first of the two gradients
    ends the run.

    The state is ``{'inner': ..., 'scale', 'good', 'next'}``: good steps since the scale was changed, and the step that
    follows the last good one.

    Attributes:
        initial: the first scale, from 1 to 2^24, which is the largest.
        every: good steps in a row after which the scale is doubled.
    """

    initial: float = 2.0**16
    every: int = 2000

    def __post_init__(self) -> None:
        if not 1 <= self.initial <= _LARGEST:
            raise ValueError(f'LossScale.initial is {self.initial}: it must be from 1 to 2^24.')
        if self.every < 1:
            raise ValueError(f'LossScale.every is {self.every}: it must be at least 1.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        scale = {'scale': jnp.float32(self.initial), 'good': jnp.int32(0), 'next': jnp.int32(0)}
        return v._replace(state={'inner': v.state, **scale})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        scale = _scale(v, step)
        params = _times_backward(v.params, 1 / scale)
        loss, (state, metrics) = self.inner.loss(self.deploy(v)._replace(params=params), batch, rng, step)
        skipped = (step > v.state['next']).astype(jnp.float32)
        metrics = {**metrics, 'loss_scale': scale, 'skipped': skipped}
        return _times_backward(loss, scale), ({**v.state, 'inner': state}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(self.deploy(v), grads, step)
        good = 1 + jnp.where(step > v.state['next'], 0, v.state['good'])
        grows = good >= self.every
        scale = jnp.minimum(_scale(v, step) * jnp.where(grows, 2.0, 1.0), _LARGEST)
        now = {'scale': scale, 'good': jnp.where(grows, 0, good), 'next': step + 1}
        return inner._replace(state={'inner': inner.state, **now})

    def skips(self, metrics: Metrics) -> Bool[Array, ''] | bool:
        return metrics['loss_scale'] > 1

    def deploy(self, v: Variables) -> Variables:
        return v._replace(state=v.state['inner'])


def _scale(v: Variables, step: Int[Array, '']) -> Float[Array, '']:
    """Returns the scale of a step: halved, down to 1, for each step that was left out since the last good one."""
    return jnp.maximum(jnp.ldexp(v.state['scale'], v.state['next'] - step), 1.0)


@jax.custom_vjp
def _times_backward(tree: Any, factor: Float[Array, '']) -> Any:
    """Returns `tree`; its gradient is multiplied by `factor`."""
    del factor
    return tree


_times_backward.defvjp(
    lambda tree, factor: (tree, factor),
    lambda factor, grads: (jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), jnp.zeros_like(factor)),
)

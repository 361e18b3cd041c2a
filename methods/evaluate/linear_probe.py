"""Linear probe: the accuracy of a linear classifier on the features, trained beside them.

Alain and Bengio, 2016, https://arxiv.org/abs/1610.01644. Features have no scale of their own, so the matrix reads them
batch-normalized without scale and bias, as in He et al., 2021, https://arxiv.org/abs/2111.06377, appendix A.1. The
probe learns along with the task, on features of the image as `predict` gives them, and no gradient of it reaches them;
so its figure is a lower bound for a probe that is trained to its end on the finished features (as in Chen et al., 2020,
https://arxiv.org/abs/2002.05709, section B.6).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper
from longview.modelzoo import features as ft
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


@dataclasses.dataclass(frozen=True)
class LinearProbe(Wrapper):
    """Task -> Task: trains `inner` unchanged and a head on its features; scores both.

    Parameters and state are ``{'inner': ..., 'probe': ...}``.

    Attributes:
        inner: the task; its `predict` gives what the head reads, and no ``logits``.
        head: features -> logits.
        normalize: whether ``pooled`` is normalized over the batch; False where microbatches must change no number.
    """

    head: nn.Module
    normalize: bool = True

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        features = self.inner.predict(v, batch)
        params, state = forward.init(self._probe, jax.random.fold_in(rng, 1), features)
        return v._replace(params={'inner': v.params, 'probe': params}, state={'inner': v.state, 'probe': state})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        inner = self.deploy(v)
        loss, (inner_state, metrics) = self.inner.loss(inner, batch, rng, step)
        features = jax.lax.stop_gradient(self.inner.predict(inner, batch))
        logits, state = forward.learn(
            self._probe, v.params['probe'], v.state['probe'], features, rng=rng, row=batch['row']
        )
        probe = cross_entropy(logits, jax.nn.one_hot(batch['label'], logits.shape[-1])).mean()
        state = {'inner': inner_state, 'probe': state}
        return loss + probe, (state, {**metrics, 'inner_loss': loss, 'probe_loss': probe})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(self.deploy(v), None if grads is None else grads['inner'], step)
        return inner._replace(params={**v.params, 'inner': inner.params}, state={**v.state, 'inner': inner.state})

    def deploy(self, v: Variables) -> Variables:
        return v._replace(params=v.params['inner'], state=v.state['inner'])

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        features = self.inner.predict(self.deploy(v), batch)
        return {**features, 'logits': self._logits(v, features)}

    def extra(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        logits = self._logits(v, self.inner.predict(self.deploy(v), batch))
        return {'probe_accuracy': (jnp.argmax(logits, axis=1) == batch['label']).astype(jnp.float32)}

    @property
    def _probe(self) -> '_Probe':
        return _Probe(self.head, self.normalize)

    def _logits(self, v: Variables, features: dict[str, Array]) -> Float[Array, 'b k']:
        return forward.answer(self._probe, v.params['probe'], v.state['probe'], features)


class _Probe(nn.Module):
    """Features, normalized or as they are, to logits."""

    head: nn.Module
    normalize: bool

    @nn.compact
    def __call__(self, features: ft.Features, *, train: bool) -> Float[Array, 'b k']:
        if self.normalize:
            norm = BatchNorm(epsilon=1e-6, affine=False, name='norm')
            features = {**features, ft.POOLED: norm(features[ft.POOLED][:, None, None], train=train)[:, 0, 0]}
        return self.head(features)

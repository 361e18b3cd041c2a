"""A linear head on pooled features, and `Classifier`, a backbone with a head. Heads compute in float32."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init


class Linear(nn.Module):
    """``pooled @ kernel + bias``.

    Attributes:
        num_classes: number of logits.
        kernel_init: initial values; by default normal with standard deviation 0.02, as in most vision transformers.
    """

    num_classes: int
    kernel_init: Callable[..., Array] = init.trunc_normal(0.02)

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``.

        Raises:
            ValueError: there is no class.
        """
        if self.num_classes < 1:
            raise ValueError(f'Linear.num_classes is {self.num_classes}: it must be at least 1.')
        pooled = features[ft.POOLED]
        kernel = self.param('kernel', self.kernel_init, (pooled.shape[-1], self.num_classes))
        bias = self.param('bias', jax.nn.initializers.zeros, (self.num_classes,))
        return pooled.astype(kernel.dtype) @ kernel + bias[None]


class Classifier(nn.Module):
    """A backbone and a head in one module; parameters are ``{'backbone': ..., 'head': ...}``.

    A head without parameters has no entry there.

    Attributes:
        backbone: columns of a batch -> features.
        head: features -> logits, or several by name, ``logits`` among them; None for the features alone.
    """

    backbone: nn.Module
    head: nn.Module | None

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of a batch that the backbone takes."""
        return ft.read_by(self.backbone)

    def __call__(self, *columns: Array, train: bool = False) -> ft.Features:
        """Returns the backbone's features, and ``logits`` among them.

        Raises:
            ValueError: the input lies on a mesh with explicit axes.
        """
        _refuse_explicit(*columns)
        return self._with_logits(self.backbone(*columns, train=train))

    def init_state(self, batch: int) -> Any:
        """Returns the state of a sequence backbone before the first element."""
        return self.backbone.init_state(batch)

    def step(self, state: Any, x: ft.Element) -> tuple[Any, ft.Features]:
        """Returns the next state of a sequence backbone, and the features and ``logits`` of this element."""
        state, features = self.backbone.step(state, x)
        return state, self._with_logits(features)

    def extend(self, state: Any, x: ft.Sequences) -> tuple[Any, ft.Features]:
        """Returns the state of a sequence backbone after the next elements, and their features and ``logits``."""
        state, features = self.backbone.extend(state, x)
        return state, self._with_logits(features)

    def _with_logits(self, features: ft.Features) -> ft.Features:
        if self.head is None:
            return features
        answer = self.head(features)
        return {**features, **(answer if isinstance(answer, dict) else {'logits': answer})}


def _refuse_explicit(*columns: Array) -> None:
    """Raises where jax would want every reshape and gather of a network to say how its result is laid out."""
    for mesh in (jax.typeof(column).sharding.mesh for column in columns):
        if jax.sharding.AxisType.Explicit not in mesh.axis_types:
            continue
        raise ValueError(
            f'the input lies on a mesh with explicit axes ({", ".join(mesh.axis_names)}), which networks do not take: '
            f'make the mesh with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}).'
        )

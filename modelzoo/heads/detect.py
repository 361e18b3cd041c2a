"""A head of object detection: what is at each place of a pyramid, and how far the sides of its box are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads.segment import stages_of
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.dense.fpn import Fpn
from longview.modelzoo.layers.norms.norm import GroupNorm

_NORMAL = {'kernel_init': jax.nn.initializers.normal(0.01)}
# At the start each class is at each place with this probability, so that the many places without any do not drown the
# loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002, section 4.1).
PRIOR = 0.01


class Towers(nn.Module):
    """The head of FCOS on each map of a pyramid, with the same weights on all.

    Tian et al., 2019, "FCOS: Fully Convolutional One-Stage Object Detection", https://arxiv.org/abs/1904.01355, section
    3. Reference: torchvision 0.28.0 (https://github.com/pytorch/vision, BSD-3-Clause), models/detection/fcos.py: two
    towers of (3x3 convolution, group norm, ReLU); classes from one; distances and centre-ness from the other. Distances
    are ``relu(x)`` in units of the stride, as there; in the paper they are ``exp(s_i x)``. Where we differ: they begin
    at one stride, not at 0, where half of them would be on the rectifier's flat side.

    Attributes:
        num_classes: number of classes K.
        convs: convolutions of each tower.
        groups: of the norms.
        dtype: compute type; the result is float32.
    """

    num_classes: int
    convs: int = 4
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, 'b _ _ c']]) -> tuple[Float[Array, 'b _ _ k5'], ...]:
        """Returns what is at each place of each map, on the last axis.

        It is K logits of classes; distances to the top, left, bottom and right side of a box, in strides; and a logit
        of centre-ness.
        """
        width, prior = maps[0].shape[-1], jnp.log(PRIOR / (1 - PRIOR))
        last = lambda features, name, bias: Conv(
            features, 3, 1, 1, name=name, bias_init=jax.nn.initializers.constant(bias), **_NORMAL
        )
        classes, sides, centre = last(self.num_classes, 'classes', prior), last(4, 'sides', 1.0), last(1, 'centre', 0.0)
        of_class, of_box = (self._tower(width, name) for name in ('class', 'box'))

        def run(x: Array) -> Array:
            found, box = run_tower(of_class, x), run_tower(of_box, x)
            return jnp.concatenate([classes(found), nn.relu(sides(box)), centre(box)], axis=-1)

        return tuple(run(x.astype(self.dtype)) for x in maps)

    def _tower(self, width: int, name: str) -> list[tuple[nn.Module, nn.Module]]:
        conv = lambda index: Conv(
            width, 3, 1, 1, self.dtype, name=f'{name}{index}_conv', bias_init=nn.initializers.zeros, **_NORMAL
        )
        norm = lambda index: GroupNorm(self.groups, dtype=self.dtype, name=f'{name}{index}_norm')
        return [(conv(index), norm(index)) for index in range(self.convs)]


def run_tower(tower: Sequence[tuple[nn.Module, nn.Module]], x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns what a tower's convolutions, norms and rectifiers make of a map."""
    for conv, norm in tower:
        x = nn.relu(norm(conv(x)))
    return x


class Fcos(nn.Module):
    """A feature pyramid of a backbone's stages with `Towers` on it.

    Attributes:
        num_classes: number of classes K.
        width: channels of the pyramid and the towers.
        stages: which stages are read, from fine to coarse; None for all.
        convs, groups, dtype: as in `Towers`.
    """

    num_classes: int
    width: int = 256
    stages: Sequence[int] | None = None
    convs: int = 4
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    needs = ft.PyramidBackbone

    @nn.nowrap
    def strides(self, backbone: ft.PyramidBackbone) -> tuple[int, ...]:
        """Returns the stride of each level of a backbone that is read."""
        return tuple(backbone.strides[index] for index in self.stages or range(len(backbone.strides)))

    @nn.compact
    def __call__(self, features: ft.Features) -> tuple[Float[Array, 'b _ _ k5'], ...]:
        """Returns a map (B, h, w, K + 5) for each level, as `Towers` does.

        Raises:
            ValueError: there is no such stage.
        """
        maps = stages_of(features, self.stages, type(self).__name__)
        maps = Fpn(self.width, self.dtype, name='fpn')(maps)
        return Towers(self.num_classes, self.convs, self.groups, self.dtype, name='towers')(maps)

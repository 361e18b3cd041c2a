"""A backbone without layers, which shows how much of a task can be read off single pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo import features as ft


class Pixels(ft.Backbone):
    """The image itself, as ``stem`` and ``map``, and its mean over the pixels as ``pooled``."""

    layers = ((),)

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns the features; there are no parameters, and `train` changes nothing."""
        del train
        x = x.astype(jnp.float32)
        return {ft.STEM: x, ft.MAP: x, ft.POOLED: x.mean(axis=(1, 2))}

"""Bundling: a chain of layers of random features becomes fixed and trained matrices between the features alone.

Sehanobish et al., 2023, "Scalable Neural Network Kernels", https://arxiv.org/abs/2310.13225, section 4; the reference
has no code of it. A layer of `modelzoo.layers.snnk.ReluSnnk` is ``kernel^T phi(x)``, so a linear layer that follows
folds into its kernel, and the projection of a ReluSnnk that follows does too: of a chain are left the first projection,
one small matrix (m, m) for each further layer, and a kernel (m, classes). Both are exact. What a trained network of
other layers computes is fitted first, layer by layer, by least squares on recorded activations.

Where we differ: the paper replaces the features of a later layer by new ones that estimate them; ReLU features need
no estimate.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo.layers.snnk import relu_features


class Bundle(NamedTuple):
    """A chain of layers, to be run by `run`.

    Attributes:
        projections: of the inputs, (m, d), then of the features before, (m, m).
        kernel: (m, out), from the last features to the output.
        bias: of the output.
    """

    projections: tuple[Float[Array, 'm n'], ...]
    kernel: Float[Array, 'm o']
    bias: Float[Array, ' o']


def bundled(layers: Sequence[Mapping[str, Array]], head: Mapping[str, Array] | None = None) -> Bundle:
    """Returns what a chain of layers computes, with fewer and smaller matrices.

    Args:
        layers: parameters ``projection`` and ``kernel`` of each ReluSnnk, the first one first. Those after the first
            do not normalise their inputs, which a bundle does not have.
        head: parameters ``kernel`` and, where it has one, ``bias`` of a linear layer behind.

    Raises:
        ValueError: there are no layers, or one does not take what the one before returns.
    """
    if not layers:
        raise ValueError('bundled has 0 layers: give it at least one.')
    projections, kernel = [layers[0]['projection']], layers[0]['kernel']
    for index, layer in enumerate(layers[1:], start=1):
        _check_fit(kernel.shape[-1], layer['projection'].shape[-1], f'layer {index}')
        projections.append(layer['projection'] @ kernel.T)
        kernel = layer['kernel']
    if head is not None:
        _check_fit(kernel.shape[-1], head['kernel'].shape[0], 'the head')
        kernel = kernel @ head['kernel']
    bias = (head or {}).get('bias', jnp.zeros(kernel.shape[-1], kernel.dtype))
    return Bundle(tuple(projections), kernel, bias)


def run(bundle: Bundle, x: Float[Array, 'n d'], floor: float = 0.0) -> Float[Array, 'n o']:
    """Returns the output of the chain; `floor` is that of its layers."""
    for projection in bundle.projections:
        x = relu_features(x, projection, floor)
    return x @ bundle.kernel + bundle.bias[None]


def fitted(
    projections: Sequence[Array],
    x: Float[Array, 'n d'],
    targets: Sequence[Array],
    floor: float = 0.0,
    ridge: float = 1e-6,
) -> list[dict[str, Array]]:
    """Returns layers whose outputs are near to recorded activations, each fitted on what those before it return.

    Args:
        projections: of the layers, (m, d) each, such as `modelzoo.layers.snnk.normal_rows` draws.
        x: recorded inputs of the first layer.
        targets: recorded outputs (n, o) of each layer that one of these is to replace.
        floor: of the layers.
        ridge: penalty of the kernels' squares, times the mean square of the features.

    Raises:
        ValueError: there are not as many targets as projections.
    """
    if len(projections) != len(targets):
        raise ValueError(f'fitted has {len(projections)} projections and {len(targets)} targets: give one for each.')
    layers = []
    for projection, target in zip(projections, targets):
        phi = relu_features(x, projection, floor)
        kernel = _least_squares(phi, target, ridge)
        layers.append({'projection': projection, 'kernel': kernel})
        x = phi @ kernel
    return layers


def _least_squares(phi: Float[Array, 'n m'], target: Float[Array, 'n o'], ridge: float) -> Float[Array, 'm o']:
    """Solves by an orthogonal decomposition, for the features' Gram matrix would have the square of their condition."""
    penalty = jnp.sqrt(ridge * jnp.sum(phi * phi) / phi.shape[1]) * jnp.eye(phi.shape[1], dtype=phi.dtype)
    nothing = jnp.zeros((phi.shape[1], target.shape[1]), target.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([phi, penalty]))
    return jnp.linalg.solve(r, q.T @ jnp.concatenate([target, nothing]))


def _check_fit(outputs: int, inputs: int, name: str) -> None:
    if outputs != inputs:
        raise ValueError(
            f'{name} takes {inputs} inputs and the layer before it has {outputs} outputs: make them equal.'
        )

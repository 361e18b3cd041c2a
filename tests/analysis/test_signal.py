"""Signals against gains that are known, and a place for each block of each family."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from longview import modelzoo
from longview.analysis import signal
from longview.modelzoo import features as ft
from longview.modelzoo.__main__ import example
from longview.modelzoo.denoisers.edm import UNet
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.layers.residuals.residual import Add
from longview.modelzoo.points.pointnet import PointNet
from longview.modelzoo.text.transformer import Transformer
from longview.modelzoo.zoo import families
from tests.modelzoo import tiny

CHANNELS = np.array([1.0, -2.0, 3.0], np.float32)


class Gain(nn.Module):
    """``x + 2 x``, by itself or by a connection."""

    joined: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Add(name='mixer_residual').write(x, 2 * x) if self.joined else 3 * x


class Gains(ft.Backbone):
    """Three blocks that multiply by 3, after a module that is no place."""

    joined: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f'block0{n}',) for n in range(3))

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> ft.Features:
        x = nn.Dense(3, use_bias=False, kernel_init=lambda *_: jnp.eye(3), name='other')(x)
        for n in range(3):
            x = Gain(self.joined, name=f'block0{n}')(x)
        return {'pooled': x}


def measured(module: nn.Module, *columns: Array) -> list[signal.Signal]:
    return signal.signals(module, tiny.jit(module.init)(jax.random.key(0), *columns), *columns)


@pytest.mark.quick
@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize('with_head', [False, True])
def test_a_linear_network_has_its_gain(joined: bool, with_head: bool) -> None:
    x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32) * CHANNELS
    module = Classifier(Gains(joined), Linear(5)) if with_head else Gains(joined)
    found = measured(module, jnp.asarray(x))
    branch = 'mixer' if joined else 'branch'
    assert [each.place for each in found] == [f'block0{n}{end}' for n in range(3) for end in (f'/{branch}', '')]
    rms = np.sqrt(np.mean(x**2))
    np.testing.assert_allclose([e.output.rms for e in found], rms * np.array([2, 3, 6, 9, 18, 27]), rtol=1e-5)
    # A branch is added to the stream: their gradients are the same. The last one is that of the random numbers.
    gradients = np.array([each.gradient.rms for each in found])
    np.testing.assert_allclose(gradients, gradients[-1] * np.array([9, 9, 3, 3, 1, 1]), rtol=1e-5)
    assert 0.85 < gradients[-1] < 1.15


@pytest.mark.quick
def test_moments_are_of_channels() -> None:
    x = np.random.default_rng(0).standard_normal((4, 5, 6, 3)).astype(np.float32) + CHANNELS
    found = jax.device_get(signal.moments(jnp.asarray(x)))
    np.testing.assert_allclose(found.mean_square, np.mean(x.mean((0, 1, 2)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found.variance, np.mean(x.var((0, 1, 2))), rtol=1e-5)
    np.testing.assert_allclose(found.rms**2, found.mean_square + found.variance, rtol=1e-5)


def test_blocks_that_are_scanned_or_recomputed_give_the_same() -> None:
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    network = modelzoo.backbone('vit_test', depth=3)
    alone = measured(network, images)
    assert [each.place for each in alone if not each.branch] == ['stem', 'block00', 'block01', 'block02', 'norm']
    assert measured(network.clone(scan=True, remat=True, drop_path=0.5), images) == alone
    # Outputs are those of the network itself.
    variables = tiny.jit(network.init)(jax.random.key(0), images)
    tokens = jax.device_get(network.apply(variables, images)['stem'])
    np.testing.assert_allclose(alone[0].output.rms, np.sqrt(np.mean(tokens**2)), rtol=1e-5)


def blocks(network: ft.Backbone) -> set[str]:
    paths = {path for group in network.layers for path in group}
    return {path for path in paths if signal._BLOCK.search(path)}


def shapes(module: nn.Module, *columns: jax.ShapeDtypeStruct) -> list[tuple[str, bool, jax.ShapeDtypeStruct]]:
    return signal.places(module, jax.eval_shape(module.init, jax.random.key(0), *columns), *columns)


@pytest.mark.parametrize('family', families(), ids=lambda family: family.__name__.rpartition('.')[2])
def test_every_family_has_places(family) -> None:
    network = list(family.VARIANTS.values())[-1]
    # No single stream that blocks add to: FractalNet has columns, CrossViT two streams, routed tokens a stream a scale,
    # and DuoFormer's tokens are made of the streams of a pyramid.
    if family.__name__.endswith(('.fractalnet', '.crossvit', '.dit_routing', '.duoformer')):
        assert [name for name, _, _ in shapes(network, example(network, (32, 32), 2))]
        return
    assert isinstance(network, ft.Backbone)
    size = (8, 8) if isinstance(network, ft.SequenceBackbone) else (32, 32)
    found = shapes(network, example(network, size, 2))
    names = [name for name, _, _ in found]
    assert blocks(network) and blocks(network) <= set(names)
    assert any(branch for _, branch, _ in found)
    # A branch comes before its block, in the shape of the stream.
    stream = [name for name, branch, _ in found if not branch and name in blocks(network)]
    assert stream == sorted(stream)


def test_words_points_and_noise_have_places() -> None:
    mask = jax.ShapeDtypeStruct((2, 6), 'bool')
    words = shapes(Transformer(11, 8, 2, 2, 6), jax.ShapeDtypeStruct((2, 6), 'int32'), mask)
    assert [name for name, branch, _ in words if not branch] == ['stem', 'block00', 'block01', 'norm']
    points = shapes(PointNet((4, 5), (3,)), jax.ShapeDtypeStruct((2, 6, 3), 'float32'), mask)
    assert [(name, shape.shape) for name, _, shape in points] == [
        ('each0_norm', (2, 6, 4)),
        ('each1_norm', (2, 6, 5)),
        ('after0_norm', (2, 3)),
    ]
    # A denoiser is no backbone: its children are its places.
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), 'float32')
    denoiser = shapes(UNet(8, (1, 1), 1, ()), image, jax.ShapeDtypeStruct((2,), 'float32'))
    names = [name for name, branch, _ in denoiser if not branch]
    assert names[:2] == ['time0', 'time1'] and names[2] == 'stem' and names[-1] == 'paint'
    assert ('down0_block0/branch', True, (2, 8, 8, 8)) in [(name, of, shape.shape) for name, of, shape in denoiser]


def test_mistakes_are_said_in_words() -> None:
    class Nameless(Gains):
        @property
        def layers(self) -> tuple[tuple[str, ...], ...]:
            return (('stem',),)

    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match='Nameless calls none of the modules that its layers name'):
        measured(Nameless(), x)
    with pytest.raises(ValueError, match='gives logits, and one of pooled, tokens'):
        signal.end({'logits': x})
    assert signal.end(x) is x


def test_normalization_is_by_the_batch() -> None:
    images = 100 + 7 * jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    found = {each.place: each.output for each in measured(modelzoo.backbone('resnet_test'), images)}
    assert found['stem'].rms < 2  # by the first running averages, 0 and 1, it would be near 100

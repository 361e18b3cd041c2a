"""Cross-D convolutions: slices by the Fourier transform, and one kernel for images and volumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from longview import modelzoo
from longview.modelzoo.layers.convolutions.cross_d import CrossDConv, mixes
from tests.modelzoo.tiny import filled, jit


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slices(kernel: jax.Array, shift: jax.Array) -> jax.Array:
    """The slice of each image."""
    side = kernel.shape[0]
    return jnp.einsum('bmnu,ucd->bmncd', mixes(side, shift), kernel.reshape(side**3, *kernel.shape[3:]))


@pytest.mark.parametrize('side', [3, 5])
def test_slices_are_those_of_a_spectrum_with_turned_phases(side):
    kernel, shift = noise(side, side, side, 2, 3), noise(2, 3, seed=1)
    shift[1] = 1  # no rotation
    ours = jax.device_get(jit(slices)(jnp.asarray(kernel), jnp.asarray(shift)))
    spectrum = np.fft.fftn(kernel, axes=(0, 1, 2))
    frequencies = np.stack(np.meshgrid(*[np.fft.fftfreq(side)] * 3, indexing='ij'), axis=-1)
    for own, t in zip(ours, shift):
        turned = spectrum * np.exp(-2j * np.pi * frequencies @ t)[..., None, None]
        np.testing.assert_allclose(own, np.fft.ifftn(turned, axes=(0, 1, 2)).real[side // 2], atol=1e-5)
    whole = np.roll(kernel, (1, 1, 1), axis=(0, 1, 2))
    np.testing.assert_allclose(ours[1], whole[side // 2], atol=1e-5)


def test_an_image_has_its_own_kernel_and_volumes_have_all_of_it():
    layer = CrossDConv(4, 3, 2, 1, groups=2)
    x, volume = noise(3, 8, 7, 4), noise(1, 4, 8, 7, 4)

    @jit
    def run(x, volume):
        variables = layer.init(jax.random.key(0), x)
        kernel = variables['params']['kernel']
        wanted = lax.conv_general_dilated(
            volume,
            kernel,
            (2, 2, 2),
            ((1, 1),) * 3,
            dimension_numbers=('NZYXC', 'ZYXIO', 'NZYXC'),
            feature_group_count=2,
        )
        y, seen = layer.apply(variables, x, capture_intermediates=lambda module, _: module.name == 'rotation')
        (shift,) = seen['intermediates']['rotation']['__call__']
        own = slices(kernel, shift)
        apart = [
            lax.conv_general_dilated(
                x[n : n + 1],
                own[n],
                (2, 2),
                ((1, 1),) * 2,
                dimension_numbers=('NYXC', 'YXIO', 'NYXC'),
                feature_group_count=2,
            )
            for n in range(3)
        ]
        return y, jnp.concatenate(apart), own, layer.apply(variables, volume), wanted

    y, apart, own, of_volume, wanted = jax.device_get(run(x, volume))
    np.testing.assert_allclose(y, apart, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_volume, wanted, rtol=1e-4, atol=1e-5)
    assert abs(own[0] - own[1]).max() > 1e-3


def test_what_predicts_the_rotation_follows_the_batch_in_training_alone():
    layer, x = CrossDConv(4, 3, padding=1), jnp.asarray(noise(3, 6, 6, 4))
    variables = filled(layer, x)

    @jit
    def run(x):
        evaluated = layer.apply(variables, x), layer.apply(variables, x[:1])
        return evaluated, layer.apply(variables, x, mutable=['batch_stats']), layer.init(jax.random.key(0), x)

    (many, one), (trained, changed), first = jax.device_get(run(x))
    np.testing.assert_allclose(many[:1], one, rtol=1e-4, atol=1e-5)
    assert abs(trained - many).max() > 1e-3
    assert (changed['batch_stats']['rotation']['norm']['mean'] != 0).all()
    np.testing.assert_array_equal(first['batch_stats']['rotation']['norm']['mean'], 0)


def test_residual_networks_take_it_by_a_field():
    model = modelzoo.create_model('resnet_test', 3, conv=CrossDConv)
    x = jax.ShapeDtypeStruct((2, 33, 20, 3), jnp.float32)
    features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    plain = jax.eval_shape(modelzoo.create_model('resnet_test', 3).init_with_output, jax.random.key(0), x)[0]
    assert jax.tree.map(jnp.shape, features) == jax.tree.map(jnp.shape, plain)
    leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
    assert any(leaf.shape[:3] == (3, 3, 3) for path, leaf in leaves if path[-1].key == 'kernel')


@pytest.mark.parametrize(
    'layer, shape, message',
    [
        (CrossDConv(4, 2), (1, 8, 8, 4), 'side 2 has no middle slice: make the side odd'),
        (CrossDConv(4, 3), (1, 8, 4), r'shape \(1, 8, 4\) is no batch of images or volumes'),
        (CrossDConv(4, 3, groups=3), (1, 8, 8, 4), 'do not divide into 3 groups'),
    ],
)
def test_mistakes_are_refused_in_a_sentence(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros(shape))

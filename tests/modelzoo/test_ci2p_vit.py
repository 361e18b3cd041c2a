"""CI2P-ViT and GDN: what they start as, how many tokens there are, what does not learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.norms.gdn import GDN, gdn
from longview.modelzoo.restorers.autoencoder import Autoencoder
from longview.modelzoo.vision import ci2p_vit
from tests.modelzoo.tiny import filled, jit, shapes


def test_gdn_starts_as_a_tenth_of_each_square_and_its_inverse_turns_it_back():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 3, 4)), jnp.float32)
    variables = GDN().init(jax.random.key(0), x)
    np.testing.assert_allclose(GDN().apply(variables, x), x / np.sqrt(1 + 0.1 * np.square(x)), rtol=1e-5)
    weightless = {'bias': jnp.ones(4), 'kernel': jnp.zeros((4, 4))}
    np.testing.assert_allclose(gdn(x, **weightless), x, rtol=1e-5)
    both = gdn(x, **weightless, inverse=True) * gdn(jnp.ones_like(x), jnp.full(4, 2.0), jnp.zeros((4, 4)))
    np.testing.assert_allclose(both, x / 2, rtol=1e-5)


def test_what_is_below_its_bound_only_rises():
    """The output is 1 / sqrt(bias) where the weights are 0, so its gradient at the bias is negative and passes."""
    at = lambda sign: jax.grad(lambda bias: sign * gdn(jnp.ones(1), bias, jnp.zeros((1, 1))).sum())(jnp.array([-1.0]))
    assert at(1.0)[0] < 0 and at(-1.0)[0] == 0


def test_tokens_are_a_quarter_of_those_of_patches_of_16():
    features = shapes('ci2p_vit_base_256').features
    assert features['tokens'].shape == (2, 64, 768) and features['map'].shape == (2, 8, 8, 768)


def test_the_first_half_of_two_scales_reads_the_encoder_s_map():
    features = shapes('ci2p_vit_ds_base_256').features
    assert features['stem'].shape == (2, 16, 16, 192) and features['tokens'].shape == (2, 64, 768)
    halves = [
        shapes('ci2p_vit_ds_base_256').params['backbone'][f'block{index:02d}']['mixer']['out']['kernel']
        for index in (5, 6)
    ]
    assert [kernel.shape for kernel in halves] == [(192, 192), (768, 768)]


def test_an_autoencoder_gives_back_images_of_any_size():
    network = Autoencoder((4, 6), norm=GDN)
    x = jnp.zeros((2, 9, 14, 3))
    images, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x))
    assert images[0].shape == x.shape
    kernels = [variables['params'][part]['conv0']['kernel'].shape for part in ('encoder', 'decoder')]
    assert kernels == [(5, 5, 3, 4), (5, 5, 6, 4)] and 'norm0' in variables['params']['decoder']


def test_squeezed_widths_are_those_of_mobilenet():
    assert [ci2p_vit.squeezed(width) for width in (8, 32, 48, 76, 1152)] == [8, 8, 16, 24, 288]


@pytest.mark.heavy
def test_the_encoder_learns_only_where_it_is_not_frozen():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    patches = ci2p_vit.Patches(8, (4,))
    variables = filled(patches, x)

    def gradient(frozen: bool) -> dict:
        network = patches.clone(frozen=frozen)
        loss = lambda params: jnp.sum(jnp.square(network.apply({**variables, 'params': params}, x)))
        return jax.device_get(jit(jax.grad(loss))(variables['params']))

    moved = lambda tree: {bool(leaf.any()) for leaf in jax.tree.leaves(tree)}
    assert moved(gradient(True)['encoder']) == {False} and moved(gradient(False)['encoder']) == {True}

"""SVT: what its wavelet transform keeps and tells apart, and what mixers of complex maps compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.convolutions import dual_tree
from longview.modelzoo.vision import svt
from tests.modelzoo.tiny import filled, jit


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@jit
def there_and_back(x):
    low, high = dual_tree.analyze(x)
    return low, high, dual_tree.synthesize(low, high)


@pytest.mark.parametrize('size', [(12, 20), (2, 4)])
def test_the_inverse_gives_the_map_back_and_energy_is_nearly_kept(size):
    x = normal(0, 2, *size, 3)
    low, high, back = jax.device_get(there_and_back(x))
    assert low.shape == x.shape and high.shape == (2, size[0] // 2, size[1] // 2, 6, 2, 3)
    np.testing.assert_allclose(back, x, atol=2e-6)
    # The filters are not orthogonal, but nearly: the squares of a filter pair add up to between 0.95 and 1.05.
    assert 0.95**2 < (np.sum(low**2) + np.sum(high**2)) / np.sum(x**2) < 1.05**2


@pytest.mark.parametrize('side', [2, 6, 56])
def test_bounds_of_the_frame_and_its_inverse_in_double_precision(side):
    analysis, synthesis = dual_tree._analysis(side), dual_tree._synthesis(side)
    np.testing.assert_allclose(synthesis @ analysis, np.eye(side), atol=1e-14)
    largest, *_, least = np.linalg.svd(analysis, compute_uv=False) ** 2
    assert 0.95 < least <= 1 <= largest < 1.05


def test_pairs_of_orientations_one_by_one_are_the_whole_transform():
    x = normal(1, 2, 6, 10, 3)

    @jit
    def run(x):
        low, high = dual_tree.analyze(x)
        back = dual_tree.synthesize(low, high)
        rows, columns = map(jnp.asarray, dual_tree.pairs(6, 10))
        made = [dual_tree.analyze_pair(x, *matrices) for matrices in zip(rows, columns)]
        total = dual_tree.from_low_pass(dual_tree.low_pass(x))
        for maps, *matrices in zip(made, rows, columns):
            total += dual_tree.synthesize_pair(maps, *matrices)
        wanted = [high[:, :, :, (n, 5 - n), :, :] for n in range(3)]
        return (low, wanted, back), (dual_tree.low_pass(x), made, total)

    jax.tree.map(lambda ours, whole: np.testing.assert_allclose(ours, whole, atol=2e-6), *jax.device_get(run(x)))


def test_a_constant_is_low_pass():
    low, high, _ = jax.device_get(there_and_back(np.full((1, 8, 12, 3), 1.5, np.float32)))
    np.testing.assert_allclose(low, 1.5, rtol=1e-6)
    np.testing.assert_allclose(high, 0, atol=1e-6)


def test_each_orientation_answers_to_waves_of_its_own_angle():
    row, column = np.indices((64, 64), np.float32)
    angles = np.deg2rad([15, 45, 75, 105, 135, 165])
    # Edges at an angle from the horizontal: the wave runs across them, rows counting downwards.
    waves = [np.cos(2.8 * (row * np.cos(angle) + column * np.sin(angle))) for angle in angles]
    _, high, _ = jax.device_get(there_and_back(np.stack(waves)[..., None]))
    energy = np.sum(high[:, 4:-4, 4:-4] ** 2, axis=(1, 2, 4, 5))
    shares = energy / energy.sum(1, keepdims=True)
    np.testing.assert_array_equal(shares.argmax(1), np.arange(6))


def test_magnitudes_hardly_change_when_a_wave_moves_by_a_pixel():
    _, column = np.indices((16, 64), np.float32)
    still, moved = (np.cos(1.5 * (column + shift))[None, ..., None] for shift in (0, 1))
    magnitude = lambda x: np.linalg.norm(jax.device_get(there_and_back(x))[1][0, :, 8:-8, 2], axis=-2)
    assert magnitude(still).std() < 0.06 * magnitude(still).mean()
    np.testing.assert_allclose(magnitude(moved), magnitude(still), rtol=0.15)


def complex_of(parts: np.ndarray, axis: int) -> np.ndarray:
    real, imaginary = np.moveaxis(parts, axis, 0)
    return real + 1j * imaginary


def test_matrices_multiply_complex_numbers():
    x = normal(0, 2, 3, 4, 6, 2, 8)
    wanted = complex_of(x, 4)
    layer = svt.ComplexChannels(2)
    params = jax.device_get(filled(layer, x))['params']
    kernel, bias = complex_of(params['kernel'], 3), complex_of(params['complex_bias'], 0)
    groups = [wanted[..., 4 * g : 4 * g + 4] @ kernel[..., g] + bias[g] for g in (0, 1)]
    answer = jax.device_get(jit(layer.apply)({'params': params}, x))
    np.testing.assert_allclose(complex_of(answer, 4), np.concatenate(groups, axis=-1), atol=1e-5)

    layer = svt.ComplexColumns()
    params = jax.device_get(filled(layer, x))['params']
    kernel, bias = complex_of(params['kernel'], 3), complex_of(params['complex_bias'], 0)
    rows = [np.einsum('bwnc,wv->bvnc', wanted[:, h], kernel[..., h]) + bias[h][:, None, None] for h in range(3)]
    answer = jax.device_get(jit(layer.apply)({'params': params}, x))
    np.testing.assert_allclose(complex_of(answer, 4), np.stack(rows, axis=1), atol=1e-5)


def test_a_map_of_odd_sides_is_mixed_and_columns_of_another_size_are_refused():
    x = normal(0, 1, 5, 7, 8)
    mixer = svt.Scattering((6, 8))
    assert jax.eval_shape(mixer.init_with_output, jax.random.key(0), x)[0].shape == x.shape
    with pytest.raises(ValueError, match='maps of 8x8 only, not 6x8: change image_size'):
        jax.eval_shape(svt.Scattering((8, 8), columns=True).init, jax.random.key(0), x)
    with pytest.raises(ValueError, match='a map of 5x7 has no squares of 2x2'):
        dual_tree.analyze(jnp.asarray(x))


def test_gains_of_ones_and_matrices_of_the_identity_let_what_is_positive_pass():
    x = normal(0, 1, 8, 8, 4)
    unit = {
        'kernel': np.stack([np.eye(2)[:, :, None].repeat(2, 2), np.zeros((2, 2, 2))], axis=-1, dtype=np.float32),
        'complex_bias': np.zeros((2, 2, 2), np.float32),
    }
    params = {'pos_embed': np.ones((4, 8, 8), np.float32), 'channels0': unit, 'channels1': unit}
    low, high, _ = there_and_back(x)
    wanted = jit(dual_tree.synthesize)(low, np.maximum(high, 0))
    np.testing.assert_allclose(jit(svt.Scattering((8, 8), 2).apply)({'params': params}, x), wanted, atol=1e-5)

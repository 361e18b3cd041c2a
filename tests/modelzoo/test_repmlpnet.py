"""RepMLPNet: convolutions that are merged into matrices, partitions, and the published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.vision import repmlpnet
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    'name', deep_ones_heavy([name for name in repmlpnet.PUBLISHED if not name.endswith('_deploy')])
)
def test_parameters_are_those_of_the_repository(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - repmlpnet.PUBLISHED[name].params) < 0.1


@pytest.mark.heavy
@pytest.mark.parametrize('partition, size', [((4, 6), (16, 24)), ((4, 2), (32, 16))])
def test_the_deployed_network_equals_the_trained_one(partition, size):
    trained, deployed = (
        modelzoo.create_model(name, 7, partition=partition) for name in ('repmlpnet_test', 'repmlpnet_deploy_test')
    )
    x = normal(3, *size, 3)
    variables = filled(trained, x)
    merged = repmlpnet.deploy(variables, partition)
    like = jax.eval_shape(deployed.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, like)
    with jax.default_matmul_precision('highest'):
        wanted, ours = jax.device_get((jit(trained.apply)(variables, x), jit(deployed.apply)(merged, x)))
    assert abs(ours['logits'] - wanted['logits']).max() <= 1e-4 * wanted['logits'].std()


def test_a_convolution_is_a_matrix_that_stops_at_the_border():
    kernel = normal(3, 3, 1, 2)
    matrix = jax.device_get(repmlpnet._as_matrix(jnp.asarray(kernel), (3, 4)))
    for source, target in np.ndindex(12, 12):
        (row, column), (there, across) = divmod(source, 4), divmod(target, 4)
        near = abs(row - there) <= 1 and abs(column - across) <= 1
        wanted = kernel[row - there + 1, column - across + 1, 0] if near else np.zeros(2)
        np.testing.assert_allclose(matrix[source, :, target], wanted, atol=1e-6)


def test_partitions_are_cut_and_read_as_published():
    """The published lines on (batch, channels, rows, columns), written out with numpy."""
    height, width, sets, rows, columns = 3, 2, 4, 2, 3
    x = normal(2, 8, rows * height, columns * width)
    parts = x.reshape(-1, 8, rows, height, columns, width).transpose(0, 2, 4, 1, 3, 5).reshape(-1, sets, height, width)
    ours = repmlpnet._cut(jnp.asarray(x.transpose(0, 2, 3, 1)), (height, width), sets)
    np.testing.assert_array_equal(ours, parts.transpose(0, 2, 3, 1))
    read = parts.reshape(-1, rows, columns, sets, height, width).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
    together = repmlpnet._together(ours, (2, *x.shape[2:], 8))
    np.testing.assert_array_equal(together, read.transpose(0, 2, 3, 1))
    assert (read != x).any()  # several partitions change places; one comes back as it was
    one = jnp.asarray(normal(2, height, width, 8))
    np.testing.assert_array_equal(repmlpnet._together(repmlpnet._cut(one, (height, width), sets), one.shape), one)


def test_channels_of_a_set_share_their_matrix():
    matrix = repmlpnet.PixelMatrix(False)
    x = jnp.asarray(normal(5, 2, 3, 4))
    kernel = jax.device_get(filled(matrix, x)['params']['kernel'])
    assert kernel.shape == (6, 4 * 6)
    wanted = np.einsum('nis,iso->nos', x.reshape(5, 6, 4), kernel.reshape(6, 4, 6)).reshape(x.shape)
    for order in (slice(None), slice(None, None, -1)):
        y = jax.device_get(matrix.apply({'params': {'kernel': kernel}}, x[order]))
        np.testing.assert_allclose(y, wanted[order], rtol=1e-4, atol=1e-5)


def test_images_that_are_not_whole_partitions_are_refused():
    backbone = modelzoo.backbone('repmlpnet_test')
    with pytest.raises(ValueError, match='image 20x16 is not whole partitions of RepMLPNet: use multiples of 16x16'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 20, 16, 3)))
    with pytest.raises(ValueError, match=r'partition is \(3, 4\): use multiples of 2'):
        jax.eval_shape(backbone.clone(partition=(3, 4)).init, jax.random.key(0), jnp.zeros((1, 12, 16, 3)))

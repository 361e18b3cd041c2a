"""Pre-activation ResNets, PyramidNet, DPN, VoVNet and ResNet-RS: sizes, and what their papers say of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import modelzoo
from longview.modelzoo.vision import dpn, pyramidnet, resnetv2, vovnet
from tests.modelzoo.tiny import deep_ones_heavy, filled, shapes

# Parameters, classifier included (10 classes for CIFAR): computed by the references, or as timm lists them.
COUNTS = {
    'preact_resnet164_cifar': 1_703_258,
    'preact_resnet110_cifar': 1_730_522,
    'preact_resnet1001_cifar': 10_327_706,
    'pyramidnet110_a48_cifar': 1_772_706,
    'dpn68': 12_611_602,
    'dpn68b': 12.61e6,
    'dpn92': 37.67e6,
    'dpn98': 61.57e6,
    'dpn131': 79.25e6,
    'dpn107': 86.92e6,
    'ese_vovnet19b_dw': 6_543_080,
    'ese_vovnet39b': 24.57e6,
    'resnetrs50': 35_691_912,
    'resnetrs101': 63.62e6,
    'resnetrs152': 86.62e6,
    'resnetrs200': 93.21e6,
}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_parameters_are_those_of_the_reference(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert count == COUNTS[name] if isinstance(COUNTS[name], int) else abs(count - COUNTS[name]) <= 0.0051e6


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_a_pre_activation_unit_is_the_identity_without_its_last_convolution():
    unit = resnetv2.Bottleneck(12, stride_first=True)
    x = normal(2, 5, 5, 12)
    variables = filled(unit, x, None)
    variables['params']['conv3']['kernel'] *= 0
    np.testing.assert_array_equal(unit.apply(variables, x, None), x)


def test_the_stride_of_a_cifar_unit_is_in_its_first_convolution():
    spec = jax.ShapeDtypeStruct((1, 9, 7, 8), 'float32')
    for first in (True, False):
        unit = resnetv2.Bottleneck(16, 2, stride_first=first)
        seen = []
        with nn.intercept_methods(functools.partial(_record, seen)):
            jax.eval_shape(lambda x: unit.init_with_output(jax.random.key(0), x, None), spec)
        assert dict(seen)['conv2'] == ((1, 5, 4, 4) if first else (1, 9, 7, 4))


def _record(seen, call, args, kwargs, context):
    if context.method_name == '__call__' and context.module.name is not None:
        seen.append((context.module.name, args[0].shape))
    return call(*args, **kwargs)


def test_a_pyramid_adds_alpha_channels_in_equal_steps():
    widths = modelzoo.backbone('pyramidnet110_a48_cifar').widths
    flat = [width for stage in widths for width in stage]
    assert flat[-1] == 16 + 48 and set(np.diff([16, *flat])) <= {0, 1}
    assert modelzoo.backbone('pyramidnet164_a270_cifar').channels[-1] == 1144  # the authors' table
    assert modelzoo.backbone('pyramidnet272_a200_cifar').channels[-1] == 864
    assert modelzoo.backbone('pyramidnet200_a450').channels[-1] == 2056


def test_a_pyramid_s_shortcut_appends_zeros_and_averages():
    block = pyramidnet.Basic(5, 2)
    x = normal(1, 4, 4, 3)
    variables = filled(block, x, None)
    variables['params']['conv2']['norm'] = jax.tree.map(jnp.zeros_like, variables['params']['conv2']['norm'])
    y = jax.device_get(block.apply(variables, x, None))
    np.testing.assert_allclose(y[..., :3], x.reshape(1, 2, 2, 2, 2, 3).mean((2, 4)), rtol=1e-6)
    assert not y[..., 3:].any()


def test_dual_paths_keep_what_is_appended_and_add_to_the_rest():
    block = dpn.Block(4, 2, 8, 2)
    s = normal(1, 3, 3, 4), normal(1, 3, 3, 6)
    variables = filled(block, s, None)
    added, appended = jax.device_get(block.apply(variables, s, None))
    np.testing.assert_array_equal(appended[..., :6], s[1])
    assert appended.shape[-1] == 8 and abs(added - s[0]).min() > 0
    assert modelzoo.backbone('dpn92').channels == (336, 704, 1552, 2688)  # table 1


def test_one_shot_aggregation_sees_every_layer_once():
    block = vovnet.Block(5, 3, 4)
    spec = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 6, 6, 7)), None)['params']
    assert spec['concat']['conv']['kernel'].shape == (1, 1, 7 + 4 * 3, 5)
    assert [spec[f'layer{k}']['conv']['kernel'].shape[2] for k in range(4)] == [7, 3, 3, 3]


@pytest.mark.parametrize('side', range(1, 10))
def test_pooling_reaches_over_the_end(side):
    """torch's ``ceil_mode``: ceil((side - 3) / 2) + 1 windows, the last of which may be cut."""
    x = normal(1, side, side, 1)
    y = jax.device_get(vovnet._halve(x))
    count = max(-(-(side - 3) // 2) + 1, 1)
    wanted = [[x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0].max() for j in range(count)] for i in range(count)]
    np.testing.assert_array_equal(y[0, ..., 0], wanted)

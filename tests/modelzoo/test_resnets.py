"""ResNets and what came of them: sizes, initial values and the quirks their docstrings name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.vision import nfnet, res2net, resnet, resnetv2
from tests.modelzoo.tiny import jit, shapes

# Millions, classifier included: as timm lists its 1000-class networks (results-imagenet.csv); CIFAR's, as the papers.
MILLIONS = {
    'resnet18': 11.69,
    'resnet34': 21.80,
    'resnet50': 25.56,
    'resnet50_max': 14.23,  # of the goldens' notes, as the next
    'resnet50_hybrid': 17.33,
    'resnet101': 44.55,
    'resnet152': 60.19,
    'wide_resnet50_2': 68.88,
    'wide_resnet101_2': 126.89,
    'resnext50_32x4d': 25.03,
    'resnext101_32x4d': 44.18,
    'resnext101_32x8d': 88.79,
    'resnext101_64x4d': 83.46,
    'resnet18d': 11.71,
    'resnet50d': 25.58,
    'ecaresnet50d': 25.58,
    'resnetv2_50d': 25.57,
    'resnetv2_18': 11.69,
    'resnetv2_34': 21.80,
    'resnetv2_50': 25.55,
    'resnetv2_101': 44.54,
    'resnetv2_50x1_bit': 25.55,
    'resnetv2_50x3_bit': 217.32,
    'resnetv2_101x1_bit': 44.54,
    'resnetv2_101x3_bit': 387.93,
    'resnetv2_152x2_bit': 236.34,
    'resnetv2_152x4_bit': 936.53,
    'res2net50_26w_4s': 25.70,
    'res2net50_48w_2s': 25.29,
    'res2net50_14w_8s': 25.06,
    'res2net50_26w_6s': 37.05,
    'res2net50_26w_8s': 48.40,
    'res2net101_26w_4s': 45.21,
    'res2next50': 24.67,
    'nf_resnet50': 25.56,
    'nfnet_l0': 35.07,
    'eca_nfnet_l0': 24.14,
    'dm_nfnet_f0': 71.49,
    'dm_nfnet_f1': 132.63,
    'dm_nfnet_f2': 193.78,
    'dm_nfnet_f3': 254.92,
    'dm_nfnet_f4': 316.07,
    'dm_nfnet_f5': 377.21,
    'dm_nfnet_f6': 438.36,
}
CIFAR = {
    'resnet20_cifar': 0.27,
    'resnet32_cifar': 0.46,
    'resnet44_cifar': 0.66,
    'resnet56_cifar': 0.85,
    'resnet110_cifar': 1.7,
    'wrn_16_8_cifar': 11.0,
    'wrn_22_8_cifar': 17.2,
    'wrn_28_10_cifar': 36.5,
    'wrn_40_4_cifar': 8.9,
}


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', MILLIONS)
def test_parameter_counts_are_the_published_ones(name):
    assert abs(count(shapes(name).params) / 1e6 - MILLIONS[name]) <= 0.0051


@pytest.mark.parametrize('name', CIFAR)
def test_parameter_counts_for_cifar_are_the_papers(name):
    assert abs(count(shapes(name).params) / 1e6 / CIFAR[name] - 1) < 0.02


def test_the_figures_in_the_tables_agree_with_ours():
    for family in (resnet, resnetv2, res2net, nfnet):
        said = {name: figures.params for name, figures in family.PUBLISHED.items() if figures.params}
        said = {
            name: params for name, params in said.items() if not name.startswith('preact_')
        }  # test_residual_nets.py
        for name, params in said.items():
            assert abs({**MILLIONS, **CIFAR}[name] / params - 1) < 0.01, name


def initial(name: str, **changes) -> dict[str, np.ndarray]:
    model = modelzoo.create_model(name, **changes)
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep='/').items()}


@pytest.mark.parametrize(
    'name, last',
    [
        ('resnet50', 'conv3/norm/scale'),
        ('resnet18', 'conv2/norm/scale'),
        ('res2net50_26w_4s', 'conv3/norm/scale'),
        ('nf_resnet50', 'conv3/scale'),
        ('dm_nfnet_f0', 'skip_scale'),
    ],
)
def test_branches_start_at_zero(name, last):
    values = initial(name, depths=(1, 1), widths=(256, 512))
    zeros = [path for path, value in values.items() if (value == 0).all() and 'bias' not in path]
    assert zeros == [path for path in values if path.endswith(last)] and len(zeros) == 2


def test_kernels_start_by_he_s_rule_over_the_outputs():
    values = initial('resnet50', depths=(1,), widths=(256,))
    for path, fan_out in (
        ('stem/conv', 49 * 64),
        ('stage0/block00/conv2/conv', 9 * 64),
        ('stage0/block00/conv3/conv', 256),
    ):
        assert abs(values[f'backbone/{path}/kernel'].std() * (fan_out / 2) ** 0.5 - 1) < 0.05, path


def run(backbone, x, variables=None, **kwargs):
    variables = variables or jit(backbone.init)(jax.random.key(0), x)
    return jit(functools.partial(backbone.apply, **kwargs))(variables, x)


def test_option_a_adds_channels_of_zeros_on_both_sides():
    x = jnp.ones((1, 4, 4, 2))
    y = resnet.Subsample(6, 2).apply({}, x)
    np.testing.assert_array_equal(y[0, 0, 0], [0, 0, 1, 1, 0, 0])
    assert y.shape == (1, 2, 2, 6)


def test_bit_pools_with_zeros_that_win():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(resnetv2.torch_pool(x).ravel(), [-1] * 4)
    np.testing.assert_array_equal(resnetv2.zero_padded_pool(x)[0, :, :, 0], [[0, 0], [0, -1]])


def test_nfnet_blocks_know_the_variance_of_their_input():
    stages = nfnet.NFNet((2, 3), (8, 16))._stages()
    variances = [[round(factory.keywords['variance'], 4) for factory in stage] for stage in stages]
    assert variances == [[1.0, 1.04], [1.08, 1.04, 1.08]]


def test_res2net_adds_from_part_to_part_except_in_the_first_block():
    block = functools.partial(res2net.Bottle2neck, 32, scales=3, base_width=64)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 32))
    for stride, seen in ((1, True), (2, False)):
        module = block(stride=stride)
        variables = jit(module.init)(jax.random.key(1), x, None)
        params = traverse_util.flatten_dict(variables['params'], sep='/')
        params['conv3/norm/scale'] = jnp.ones(32)
        # Only what the second part's convolution makes is let through to the output.
        params['conv3/conv/kernel'] = params['conv3/conv/kernel'].at[:, :, :8].set(0).at[:, :, 16:].set(0)

        def output(first_part, params=params, module=module, variables=variables):
            changed = traverse_util.unflatten_dict(params | {'scale0/conv/kernel': first_part}, sep='/')
            return module.apply({**variables, 'params': changed}, x, None)

        gradient = jit(jax.grad(lambda kernel: jnp.sum(output(kernel) ** 2)))(params['scale0/conv/kernel'])
        assert (abs(gradient).max() > 0) == seen


def test_group_sizes_reach_the_blocks():
    assert nfnet.nfnet('dm_nfnet_f0', group_size=8).block.keywords['group_size'] == 8
    with pytest.raises(ValueError, match='32 features leave 16 channels, fewer than a group of 128: widen the stage'):
        jax.eval_shape(nfnet.nfnet(depths=(1,), widths=(32,)).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    assert resnetv2.resnetv2('resnetv2_50x1_bit', groups=4).norm.args == (4,)
    backbone = resnetv2.resnetv2('resnetv2_50x1_bit', groups=3, depths=(1,), widths=(64,))
    with pytest.raises(ValueError, match='64 channels do not divide into 3 groups'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_published_names_of_what_is_not_a_plain_matrix():
    names = {
        kind: family.NAMES[kind] for family, kind in ((resnet, 'ResNet'), (resnetv2, 'ResNetV2'), (nfnet, 'NFNet'))
    }
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes('nfnet_test').params)
    published = weights.to_published(names['NFNet'], params)
    assert published['stages.0.0.conv1.gain'].shape == (16, 1, 1, 1)
    assert published['stages.1.1.skipinit_gain'].shape == ()
    assert published['stages.0.0.attn_last.fc1.weight'].shape == (16, 32, 1, 1)
    bit = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes('bit_test').params)
    assert weights.to_published(names['ResNetV2'], bit)['head.fc.weight'].shape == (1000, 64, 1, 1)


def test_batch_statistics_come_and_go_with_the_parameters():
    model = modelzoo.create_model('resnet_test', 3)
    wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), wanted)
    published = weights.to_published(resnet.NAMES['ResNet'], weights.merge(variables))
    assert published['layer2.1.bn3.running_var'].shape == (64,)
    counted = published | {'bn1.num_batches_tracked': np.zeros((), np.int64)}
    loaded = weights.load_published(resnet.NAMES['ResNet'], weights.merge(wanted), counted)
    back = weights.separate(loaded, wanted)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_the_code_for_cifar_names_its_head_otherwise():
    params = shapes('resnet_cifar_test').params
    published = weights.to_published(resnet.NAMES['ResNet'], jax.tree.map(lambda leaf: np.ones(leaf.shape), params))
    renamed = {name.replace('fc.', 'linear.'): value for name, value in published.items()}
    loaded = weights.load_published(resnet.NAMES['ResNet'], params, renamed)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)

"""Where values come from, and that each convention does what the dialects do that are named for it."""

import copy
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.configs import base
from longview.data.images import resize
from longview.engine import explain
from longview.engine.explain import Convention
from longview.methods.optim.adamw import adamw
from longview.methods.optim.schedules import warmup_cosine
from longview.methods.optim.sgd import sgd
from longview.modelzoo.layers.frame.mlp import gelu, quick_gelu
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.evonorm import EvoNormB0
from longview.modelzoo.layers.norms.norm import GroupNorm, LayerNorm, RMSNorm
from tests import toys

NORMALIZE = {'fn': 'methods.augment:Normalize', 'mean': (0.5,), 'std': (0.5,)}
TINY = {'image_size': 8, 'patch': 2, 'width': 32, 'depth': 1, 'heads': 2}


def preset() -> dict:
    config = toys.config().to_dict()
    config['task']['backbone'] = base.backbone('vit_small_patch16_224', **TINY)
    config['train_transforms'] = config['eval_transforms'] = [NORMALIZE]
    config['optimizer'] = base.adamw(peak=1e-3, warmup_epochs=0.1)
    return config


@pytest.fixture(scope='module')
def explained():
    """A small ViT on digits, some of whose values come from the command line."""
    config = copy.deepcopy(preset())
    config['seed'], config['task']['head']['num_classes'] = 3, None
    config['data']['train_crop'] = {'fn': 'data.images:PadCrop', 'padding': 1}
    config['steps'] = {'data': 'num_train'}
    return explain.explain(config, preset())


def test_every_value_says_where_it_is_from(explained) -> None:
    found = {value.key: (value.value, value.source) for value in explained[0]}
    assert len(found) == len(explained[0])
    assert found['config.batch_size'] == (64, explain.PRESET)
    assert found['config.seed'] == (3, explain.COMMAND_LINE)
    assert found['config.data.train_crop.padding'] == (1, explain.COMMAND_LINE)
    assert found['config.data.train_crop.interpolation'] == ('bicubic', explain.DEFAULT)
    assert found['config.task.head.num_classes'] == (10, explain.DATA_SET)
    assert found['config.steps'] == (1438, explain.DATA_SET)
    assert found['config.best'] == ('eval/accuracy', explain.DEFAULT)
    assert found['config.evals'] == ({}, explain.DEFAULT)
    assert found['config.task.backbone.patch'] == (2, explain.PRESET)
    value, source = found['config.task.backbone.norm']
    assert (explain.words(value), source) == ('LayerNorm(epsilon=1e-06)', 'vit_small_patch16_224')
    # What the optimizer is called with later is not left to a default.
    assert 'config.optimizer.steps' not in found


def test_the_conventions_of_what_is_built(explained) -> None:
    found = {each.what: (each.value, each.dialects) for each in explained[1]}
    assert found == {
        'LayerNorm epsilon': ('1e-06', ('timm', 'big_vision')),
        'GELU': ('exact', ('torch', 'timm', 'tf')),
        'resizing in train_crop': ('bicubic, antialiased', ('torch', 'timm')),
        'resizing in eval_crop': ('bicubic, antialiased', ('torch', 'timm')),
        'weight decay': ('times the rate, apart from the moments', ('torch', 'timm', 'tf')),
        'warm-up starts at': ('0', ('tf', 'big_vision')),
    }


def test_the_table_has_a_line_for_each(explained) -> None:
    lines = explain.table(*explained).splitlines()
    assert len(lines) == len(explained[0]) + len(explained[1]) + 3
    assert next(line for line in lines if line.startswith('config.seed ')).split() == [
        'config.seed',
        '3',
        'command',
        'line',
    ]


@pytest.mark.quick
def test_stages_are_explained_without_what_they_will_read() -> None:
    values, conventions = explain.explain(toys.staged())
    found = {value.key: (value.value, value.source) for value in values}
    assert found['config.stages.teacher.seed'] == (0, explain.PRESET)
    assert found['config.stages.student.data.scores.stage'] == ('losses', explain.PRESET)
    assert found['config.stages.features.steps'] == (3, explain.DEFAULT)
    assert conventions == []


# What the dialects do by default, from their documentation: torch.nn, timm.layers and its ViT, tf.keras.layers,
# flax.linen, which big_vision takes.
EPSILONS = [
    (LayerNorm, {'torch': 1e-5, 'timm': 1e-6, 'tf': 1e-3, 'big_vision': 1e-6}),
    (RMSNorm, {'timm': 1e-6, 'tf': 1e-6, 'big_vision': 1e-6}),
    (functools.partial(GroupNorm, groups=1), {'torch': 1e-5, 'timm': 1e-5, 'tf': 1e-3, 'big_vision': 1e-6}),
    (BatchNorm, {'torch': 1e-5, 'timm': 1e-5, 'tf': 1e-3, 'big_vision': 1e-5}),
]
NORMS = [(norm, epsilon, defaults) for norm, defaults in EPSILONS for epsilon in sorted({*defaults.values()})]


@pytest.mark.parametrize('norm, epsilon, defaults', NORMS, ids=lambda value: getattr(value, '__name__', None))
def test_the_epsilon_of_a_norm(norm, epsilon: float, defaults: dict[str, float]) -> None:
    module = norm(epsilon=epsilon)
    first = explain.of_norms([module, module])[0]
    assert first.what == f'{type(module).__name__} epsilon' and float(first.value) == epsilon
    assert {*first.dialects} == {name for name, default in defaults.items() if default == epsilon}
    x = np.random.default_rng(0).normal(0, 1e-2, (2, 3, 3, 8))  # small, so that the epsilon counts
    axes = {'GroupNorm': (1, 2, 3), 'BatchNorm': (0, 1, 2)}.get(type(module).__name__, (3,))
    centred = x if norm is RMSNorm else x - x.mean(axes, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)
    mode = {'train': True, 'mutable': 'batch_stats'} if norm is BatchNorm else {}
    variables = module.init(jax.random.key(0), jnp.asarray(x))
    y = module.apply(variables, jnp.asarray(x), **mode)
    np.testing.assert_allclose(y[0] if mode else y, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('momentum, names', [(0.9, {'torch', 'timm'}), (0.99, {'tf', 'big_vision'}), (0.5, set())])
def test_the_momentum_of_batch_normalization(momentum: float, names: set[str]) -> None:
    """torch's momentum, of the new value, is 0.1; that of tf.keras and flax, of the old one, is 0.99."""
    module = BatchNorm(momentum=momentum)
    found = explain.of_norms([module])[1]
    assert found.what == 'BatchNorm momentum' and {*found.dialects} == names
    x = np.random.default_rng(0).normal(3, 2, (4, 2, 2, 5))
    _, updated = module.apply(
        module.init(jax.random.key(0), jnp.asarray(x)), jnp.asarray(x), train=True, mutable='batch_stats'
    )
    mean = x.mean((0, 1, 2))
    variance = ((x - mean) ** 2).sum((0, 1, 2)) / (x.size // 5 - 1)  # torch's, unbiased
    np.testing.assert_allclose(updated['batch_stats']['mean'], (1 - momentum) * mean, rtol=1e-5)
    np.testing.assert_allclose(updated['batch_stats']['var'], momentum + (1 - momentum) * variance, rtol=1e-5)


EXACT = lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))
TANH = lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    'function, formula, name, dialects',
    [
        (gelu, EXACT, 'exact', ('torch', 'timm', 'tf')),
        (functools.partial(nn.gelu, approximate=False), EXACT, 'exact', ('torch', 'timm', 'tf')),
        (functools.partial(nn.gelu, approximate=True), TANH, 'tanh', ('big_vision',)),
        (jax.jit(jax.checkpoint(nn.gelu)), TANH, 'tanh', ('big_vision',)),
    ],
    ids=['ours', 'exact', 'tanh', 'inside other programs'],
)
def test_the_form_of_gelu(function, formula, name: str, dialects: tuple[str, ...]) -> None:
    x = jnp.linspace(-3, 3, 61)
    assert explain.of_gelus(jax.make_jaxpr(function)(x).jaxpr) == [Convention('GELU', name, dialects)]
    # The two differ by up to 5e-4.
    np.testing.assert_allclose(jax.device_get(function(x)), [formula(v) for v in x.tolist()], atol=2e-6)


def test_no_gelu_is_seen_where_there_is_none() -> None:
    for function in (jnp.tanh, quick_gelu, lambda x: 0.5 * x + 0.04 * x**3, lambda x: x * 0.044715j):
        assert explain.of_gelus(jax.make_jaxpr(function)(1.0).jaxpr) == []


def test_images_are_made_smaller_with_antialiasing() -> None:
    """As Pillow, which torch's and timm's recipes use; tf.image and big_vision read only the two nearest pixels."""
    row = np.array([0, 250, 10, 40, 90, 200, 30, 70], np.uint8)
    found = resize(np.tile(row[None, :, None], (8, 1, 1)), 2, 2, 'bilinear')[0, :, 0]
    weights = np.maximum(0, 1 - np.abs(np.arange(8) + 0.5 - np.array([[2.0], [6.0]])) / 4)
    np.testing.assert_allclose(found, weights @ row / weights.sum(axis=1), atol=1)
    assert np.abs(found - np.array([row[1:3].mean(), row[5:7].mean()])).min() > 5


RATE, DECAY = 0.01, 0.3


def moved(optimizer, grads: list[float]) -> list[float]:
    """Returns the values that a kernel of one number has after each step, from 1."""
    schedule = lambda steps, steps_per_epoch: lambda step: RATE
    made = optimizer(10, 1.0, lambda path: (0, 1), schedule=schedule, weight_decay=DECAY)
    params = {'kernel': jnp.ones((1, 1))}
    state, found = made.transform.init(params), []
    for grad in grads:
        updates, state = made.transform.update({'kernel': jnp.full((1, 1), grad)}, state, params)
        params = {'kernel': params['kernel'] + updates['kernel']}
        found.append(float(params['kernel'][0, 0]))
    return found


def test_decay_of_adamw_is_times_the_rate() -> None:
    """torch.optim.AdamW and tf.keras's; big_vision's is times the schedule alone, which is 1 at its peak."""
    assert explain.of_decay(functools.partial(adamw, weight_decay=DECAY)) == [
        Convention('weight decay', 'times the rate, apart from the moments', ('torch', 'timm', 'tf'))
    ]
    assert moved(adamw, [0.0, 0.0]) == pytest.approx([1 - RATE * DECAY, (1 - RATE * DECAY) ** 2])


def test_decay_of_sgd_is_in_the_gradient() -> None:
    """torch.optim.SGD: ``g <- g + decay * p; m <- momentum * m + g; p <- p - rate * m``."""
    assert explain.of_decay(functools.partial(sgd, weight_decay=DECAY)) == [
        Convention('weight decay', 'in the gradient, before the momentum', ('torch', 'timm'))
    ]
    p, m, expected = 1.0, 0.0, []
    for grad in (0.5, -0.25, 0.0):
        m = 0.9 * m + grad + DECAY * p
        p -= RATE * m
        expected.append(p)
    assert moved(sgd, [0.5, -0.25, 0.0]) == pytest.approx(expected)


def test_no_decay_is_no_convention() -> None:
    assert explain.of_decay(functools.partial(adamw, weight_decay=0.0)) == []


@pytest.mark.parametrize('start, dialects', [(0.0, ('tf', 'big_vision')), (1e-4, ('timm',))])
def test_where_a_warm_up_starts(start: float, dialects: tuple[str, ...]) -> None:
    """timm: ``start + step * (peak - start) / warmup``; big_vision and tf: ``peak * step / warmup``."""
    made = functools.partial(warmup_cosine, peak=1e-2, warmup_epochs=4.0, start=start)
    optimizer = adamw(20, 1.0, lambda path: (0, 1), schedule=made)
    assert explain.of_warmup(optimizer) == [Convention('warm-up starts at', f'{start:g}', dialects)]
    rates = [float(optimizer.schedule(step)) for step in range(4)]
    assert rates == pytest.approx([start + step * (1e-2 - start) / 4 for step in range(4)], rel=1e-5)


def test_without_a_rise_there_is_no_warm_up() -> None:
    schedule = functools.partial(warmup_cosine, peak=1e-2)
    assert explain.of_warmup(adamw(20, 1.0, lambda path: (0, 1), schedule=schedule)) == []


def test_the_momentum_of_another_norm_is_no_convention() -> None:
    assert explain.of_norms([EvoNormB0()])[1] == Convention('EvoNormB0 momentum', '0.9 of the old average', ())


def test_the_constant_of_gelu_is_known_in_bfloat16() -> None:
    program = jax.make_jaxpr(nn.gelu)(jnp.bfloat16(1))
    assert [each.value for each in explain.of_gelus(program.jaxpr)] == ['tanh']

"""Attention compared with a loop over queries in float64; kernels of libraries; what is refused; shares of devices."""

import importlib.util
import inspect
import sys
import types
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels import dispatch
from longview.kernels.attention import attention, libraries
from longview.kernels.attention.shapes import SHAPES
from tests import goldens
from tests.kernels import tpu
from tests.kernels.close import BARS, assert_close, assert_same

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op; bias and mask are the dimensions that are not broadcast, of 'bhts'."""

    shape: str
    bias: str | None = None
    mask: str | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    scale: float | None = None
    dtype: str = 'float32'


CASES = [
    Case('one_token', bias='ts'),
    Case('odd', bias='hts', scale=0.3),
    pytest.param(Case('odd', mask='bs', causal=True), marks=pytest.mark.quick),
    Case('odd', causal=True, window=(4, 9), dtype='bfloat16'),
    Case('cross', bias='bhts', mask='ts'),
    Case('grouped', mask='bhts', window=(3, 2), dtype='float64'),
    Case('one_shared', bias='s', causal=True),
]


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` is a cotangent."""
    shape = SHAPES[case.shape]
    random = np.random.default_rng(sum(shape))
    keys = (shape.batch, shape.keys, shape.shared)
    queries = (shape.batch, shape.queries, shape.heads)
    logits = dict(zip('bhts', (shape.batch, shape.heads, shape.queries, shape.keys)))
    sizes = {'q': (*queries, shape.key_width), 'k': (*keys, shape.key_width), 'v': (*keys, shape.value_width)}
    sizes |= {'dy': (*queries, shape.value_width)}
    partly = lambda names: tuple(size if name in names else 1 for name, size in logits.items())
    sizes |= {'bias': partly(case.bias)} if case.bias else {}
    found = {name: random.standard_normal(size).astype(jnp.dtype(case.dtype)) for name, size in sizes.items()}
    if case.mask:
        seen = random.random(partly(case.mask)) < 0.7
        seen[..., 0] = True
        found['mask'] = seen
    return found


def traced(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the output and all gradients by name."""
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'mask')}
    how = {'causal': case.causal, 'window': case.window, 'scale': case.scale, 'implementation': implementation}
    y, pull = jax.vjp(lambda wrt: attention(**wrt, mask=arrays.get('mask'), **how), wrt)
    return {'y': y} | {f'd{name}': x for name, x in pull(arrays['dy'])[0].items()}


run = jit(traced, static_argnums=(0, 1))


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        exact = {name: x if x.dtype == bool else x.astype(np.float64) for name, x in arrays.items()}
        return jax.device_get(run(case, 'reference', exact))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case):
    arrays = inputs(case)
    target = wanted(case, arrays)
    with jax.enable_x64(case.dtype == 'float64'):
        found = jax.device_get(run(case, 'xla', arrays))
    assert {x.dtype for x in found.values()} == {arrays['q'].dtype}
    # The weights are rounded to bfloat16 before they multiply the values.
    bar = 2 * BARS[case.dtype] if case.dtype == 'bfloat16' else BARS[case.dtype]
    assert_close(found, target, dict.fromkeys(target, bar))


def test_a_query_that_sees_nothing_gets_the_mean_of_all_values():
    arrays = inputs(Case('odd'))
    q, k, v = (arrays[name] for name in 'qkv')
    y = attention(q, k, v, mask=jnp.zeros((1, 1, 1, 1), bool))
    np.testing.assert_allclose(y, np.broadcast_to(v.mean(1, keepdims=True), y.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('how', 'wanted'),
    [
        ({'bias': jnp.zeros((2, 2, 1, 20))}, r'bias has shape \(2, 2, 1, 20\); wanted \(2, 2, 21, 21\), or 1 in'),
        ({'mask': jnp.zeros((1, 1, 21, 21))}, r'mask is float32; wanted bool'),
        ({'window': (-1, 2)}, r'window is \(-1, 2\); wanted \(tokens before, tokens after\)'),
        ({'k': jnp.ones((2, 21, 3, 8)), 'v': jnp.ones((2, 21, 3, 6))}, 'number of heads that divides the 2 of q'),
        ({'v': jnp.ones((2, 20, 2, 6))}, r"v has shape \(2, 20, 2, 6\); wanted \(2, 21, 2, 'channels'\)"),
        ({'k': jnp.ones((2, 9, 2, 8)), 'v': jnp.ones((2, 9, 2, 6)), 'causal': True}, 'with 21 queries and 9 keys'),
        ({'implementation': 'splosh'}, "no implementation 'splosh'.* nearest is 'splash'"),
    ],
)
def test_a_mistake_is_one_sentence(how, wanted):
    arrays = inputs(Case('odd'))
    call = {name: jnp.asarray(arrays[name]) for name in 'qkv'} | how
    with pytest.raises(ValueError, match=wanted):
        inspect.unwrap(attention)(**call)  # without the check of annotations, which is there in tests only


def test_heads_and_batch_over_a_mesh_gather_nothing():
    case = Case('mesh', bias='hts', causal=True)
    arrays = inputs(case)
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = lambda name: PartitionSpec(None, 'tensor') if name == 'bias' else PartitionSpec('data', None, 'tensor')
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
    compiled = run.lower(case, None, split).compile()
    assert not [word for word in ('all-gather', 'all-to-all', 'collective-permute') if word in compiled.as_text()]
    assert_same(compiled(split), run(case, 'xla', arrays))


@pytest.mark.parametrize('reach', [None, (300, 0), (40, 7)])
def test_splash_attention_on_tokens_that_fill_no_block(reach):
    """Interpreted: 300 tokens in blocks of 128, heads that share keys and values; values and gradients."""
    arrays = inputs(Case('tpu'))

    def slope(attend):
        def both(q, k, v):
            y, pull = jax.vjp(lambda *x: attend(*x, None, None, scale=0.1, reach=reach), q, k, v)
            return dict(zip(('y', 'dq', 'dk', 'dv'), (y, *pull(arrays['dy']))))

        return jit(both)(*(arrays[name] for name in 'qkv'))

    how = {} if reach is None else {'causal': reach[1] == 0, 'window': reach}
    target = slope(lambda *x, scale, reach: attention(*x[:3], scale=scale, **how))
    with tpu.interpreted():
        found = jax.block_until_ready(slope(libraries.splash))
    assert_close(found, target, dict.fromkeys(target, 1e-5))


def test_splash_attention_for_a_tpu_lays_down_no_weights():
    """Compiled for four v5e under x64; plain XLA keeps the weights of 2,048 x 2,048 for the gradient."""
    shape = SHAPES['language_2k']
    mesh = jax.sharding.Mesh(np.array(tpu.topology('v5e').devices).reshape(4), ('data',))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    x = jax.ShapeDtypeStruct((shape.batch, shape.queries, shape.heads, 64), jnp.bfloat16, sharding=rows)
    loss = lambda q, k, v: jnp.sum(attention(q, k, v, causal=True).astype(jnp.float32) ** 2)
    plain = tpu.compile_for(jax.grad(loss, (0, 1, 2)), x, x, x)
    with dispatch.prefer(attention='splash'), jax.enable_x64(True):
        found = tpu.compile_for(jax.grad(loss, (0, 1, 2)), x, x, x)
    text = found.program.as_text()
    assert 'tpu_custom_call' in text and 'all-gather' not in text
    weights = shape.batch // 4 * shape.heads * shape.queries**2 * 2
    assert plain.temp > weights > 2 * found.temp


@pytest.mark.parametrize(
    ('name', 'how', 'wanted'),
    [
        ('splash', {'bias': jnp.zeros((1, 1, 21, 21))}, r'there is a bias of shape \(1, 1, 21, 21\); wanted none'),
        ('cudnn', {'window': (3, 3)}, 'queries see 3 tokens after them; wanted a window together with causal=True'),
        ('cudnn', {}, 'heads have 8 and 6 channels; wanted both the same multiple of 8'),
        ('cudnn', {'v': jnp.ones((2, 21, 2, 8))}, 'an input is float32; wanted bfloat16 or float16'),
        ('tokamax', {}, 'tokamax is not installed; wanted: pip install tokamax'),
    ],
)
def test_a_library_that_cannot_serve_says_why(name, how, wanted, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in ('tokamax', 'nvidia') else find(name))
    arrays = inputs(Case('odd'))
    call = {name: arrays[name] for name in 'qkv'} | how
    with pytest.raises(
        NotImplementedError, match=f"attention: implementation '{name}' cannot serve this call: {wanted}"
    ):
        attention(**call, implementation=name)


@pytest.mark.parametrize('how', [{}, {'causal': True}, {'window': (3, 2)}, {'causal': True, 'window': (5, 0)}], ids=str)
def test_tokamax_is_asked_for_the_same(how, monkeypatch):
    """By a stand-in with the arguments of tokamax.dot_product_attention, which are those of jax.nn's."""
    arrays = inputs(Case('grouped', bias='hts', mask='bhts'))
    call = {name: arrays[name] for name in ('q', 'k', 'v', 'bias', 'mask')}
    wanted = attention(**call, **how)
    monkeypatch.setitem(sys.modules, 'tokamax', types.ModuleType('tokamax'))
    sys.modules['tokamax'].dot_product_attention = jax.nn.dot_product_attention
    sys.modules['tokamax'].__spec__ = importlib.util.find_spec('jax')
    np.testing.assert_allclose(attention(**call, **how, implementation='tokamax'), wanted, rtol=1e-5, atol=1e-6)

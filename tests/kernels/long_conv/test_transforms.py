"""The long convolution under vmap, remat, scan, a mesh and export; its memory; and what it refuses."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.long_conv import long_conv
from tests.kernels.long_conv import cases
from tests.kernels.long_conv.cases import Case

BOTH = pytest.mark.parametrize('implementation', ['fft', 'monarch'])


def _same(found, wanted):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), found, wanted)


@BOTH
def test_vmap_remat_and_scan(implementation):
    arrays = cases.device(Case('partial'), cases.inputs(Case('partial')))
    u, kernel = arrays['u'], arrays['kernel']
    loss = lambda u, kernel: jnp.sum(long_conv(u, kernel, implementation=implementation) ** 2)
    both = cases.jit(jax.grad(loss, (0, 1)))
    pairs = np.stack([u, 2 * u]), np.stack([kernel, -kernel])
    wanted = jax.tree.map(lambda *x: np.stack(x), *(both(x, k) for x, k in zip(*pairs)))
    remat = jax.grad(jax.checkpoint(loss), (0, 1))
    scan = lambda *pairs: jax.lax.scan(lambda c, p: (c, remat(*p)), None, pairs)[1]
    mapped, scanned = cases.jit(lambda *pairs: (jax.vmap(remat)(*pairs), scan(*pairs)))(*pairs)
    _same(mapped, wanted)
    _same(scanned, wanted)


def test_the_platform_chooses():
    arrays = cases.device(Case('odd'), cases.inputs(Case('odd')))
    export = lambda platform: jax.export.export(jax.jit(long_conv), platforms=[platform])
    text = {name: export(name)(arrays['u'], arrays['kernel']).mlir_module() for name in ('cpu', 'tpu', 'cuda')}
    assert 'stablehlo.fft' in text['cpu'] and 'stablehlo.fft' in text['cuda']
    assert 'stablehlo.fft' not in text['tpu'] and 'tpu_custom_call' in text['tpu']


@BOTH
@pytest.mark.parametrize('apart', [False, True])
def test_a_mesh_gathers_nothing(implementation, apart):
    """Batch over `data`, channels over `tensor`; only the gradient of a shared kernel is summed over the batch."""
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    case = Case('mesh', apart=apart)
    arrays = cases.device(case, cases.inputs(case))
    spec = lambda x: PartitionSpec('data', None, 'tensor') if x.ndim == 3 else PartitionSpec(None, 'tensor')
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(x))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, implementation, split).compile()
    text = compiled.as_text()
    words = ['all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'] + ['all-reduce'] * apart
    assert not [word for word in words if word in text]
    _same(compiled(split), cases.run(case, implementation, arrays))


@BOTH
def test_memory_is_linear_in_the_length(implementation):
    def temporaries(tokens):
        u, kernel = (jax.ShapeDtypeStruct((*batch, tokens, 8), jnp.float32) for batch in ((2,), ()))
        loss = lambda u, kernel: jnp.sum(long_conv(u, kernel, implementation=implementation) ** 2)
        return jax.jit(jax.grad(loss, (0, 1))).lower(u, kernel).compile().memory_analysis().temp_size_in_bytes

    short, long = temporaries(1024), temporaries(4096)
    assert long <= 4.5 * short


@pytest.mark.parametrize(
    'shapes, options, message',
    [
        ({'u': (2, 8)}, {}, r'u has shape \(2, 8\); wanted \(batch, tokens, channels\)'),
        ({'kernel': (8, 4)}, {}, r'kernel has shape \(8, 4\); wanted \(taps, 3\), or \(2, taps, 3\)'),
        ({'kernel': (3, 8, 3)}, {}, r'kernel has shape \(3, 8, 3\)'),
        ({'backward_kernel': (2, 4, 3)}, {}, 'both kernels of one kind'),
        ({'kernel': (9, 3)}, {'circular': True}, 'kernel has 9 taps; a circular convolution of 8 tokens wants no more'),
        ({'pre_gate': (2, 8, 1)}, {}, r'pre_gate has shape \(2, 8, 1\); wanted that of u'),
        ({}, {'frequencies': 0.3}, r'frequencies is 0.3; wanted one of \(1.0, 0.5, 0.25, 0.125\)'),
        ({'skip': (2,)}, {}, r'skip has shape \(2,\); wanted \(3,\)'),
        ({}, {'implementation': 'ftt'}, "no implementation 'ftt'.*the nearest is 'fft'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(shapes, options, message):
    arrays = {name: jnp.ones(shape) for name, shape in ({'u': (2, 8, 3), 'kernel': (8, 3)} | shapes).items()}
    call = partial(inspect.unwrap(long_conv), **options)  # without the shape checks of the tests
    with pytest.raises(ValueError, match=message):
        call(arrays.pop('u'), arrays.pop('kernel'), **arrays)

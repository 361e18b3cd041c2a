"""Output and gradients of the depthwise convolution compared with a direct sum in float64, in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from tests.kernels.close import assert_close
from tests.kernels.depthwise_conv import cases
from tests.kernels.depthwise_conv.cases import Case

PLAIN = [Case('pixel'), pytest.param(Case('seven'), marks=pytest.mark.quick), Case('row'), Case('column')]
ODD = [
    Case('small', stride=2),
    Case('small', padding='VALID', dilation=(2, 1)),
    Case('even', stride=(2, 1)),
    Case('even', padding=3, stride=3),
    Case('small', padding=((0, 4), (5, 1)), stride=(2, 3), dilation=(2, 1)),
    Case('row', dilation=2),
    Case('column', stride=2, padding=((5, 4), (0, 0))),
    Case('small', multiplier=3),
]
HALF = [Case('seven', dtype='bfloat16'), Case('small', dtype='bfloat16', stride=2, multiplier=2)]


@pytest.mark.parametrize('form', ['shift', 'spectral'])
@pytest.mark.parametrize('case', [*PLAIN, *ODD, *HALF], ids=str)
def test_forms_of_a_cpu(case, form):
    cases.check(case, form)


@pytest.mark.parametrize(
    'case, form',
    [
        (Case('wide', dilation=2), 'shift'),
        (Case('wide_row'), 'shift'),
        (Case('wide_column', dilation=2), 'shift'),
        (Case('wide_column', padding=((3, 9), (0, 0)), dtype='bfloat16'), 'shift'),
        (Case('fourteen'), 'spectral'),
        (Case('thirty_one'), 'shift'),
        (Case('fifty_six'), 'shift'),
        (Case('fifty_six'), 'spectral'),
        (Case('larger'), 'spectral'),
        (Case('large'), 'spectral'),
        (Case('large', stride=2, dtype='bfloat16'), 'spectral'),
    ],
    ids=str,
)
def test_sizes_of_networks(case, form):
    cases.check(case, form)


@pytest.mark.parametrize('case', [Case('seven'), ODD[4], Case('small', multiplier=3)], ids=str)
@pytest.mark.parametrize('form', ['conv', 'reference'])
def test_xla_s_convolution_and_the_reference(case, form):
    cases.check(case, form)


@pytest.mark.parametrize('form', ['shift', 'spectral', 'reference'])
def test_double_precision(form):
    with jax.enable_x64(True):
        cases.check(Case('small', dtype='float64', stride=2), form)


@pytest.mark.parametrize('dtype', [pytest.param('float32', marks=pytest.mark.quick), 'bfloat16'])
def test_inception_is_its_parts(dtype):
    random = np.random.default_rng(0)
    shapes = {'x': (2, 7, 9, 11), 'square': (3, 3, 1, 2), 'row': (1, 5, 1, 2), 'column': (7, 1, 1, 2), 'bias': (3, 2)}
    arrays = {name: random.standard_normal(shape).astype(jnp.dtype(dtype)) for name, shape in shapes.items()}
    cotangent = random.integers(-9, 9, shapes['x'])

    def parts(x, square, row, column, bias):
        wide = [a.astype(jnp.float32) for a in (x, square, row, column)]
        bias = bias.astype(jnp.float32)[:, None, None, None]
        convolved = [
            depthwise_conv(wide[0][..., 5 + 2 * n : 7 + 2 * n], kernel, implementation='reference') + bias[n]
            for n, kernel in enumerate(wide[1:])
        ]
        return jnp.concatenate([wide[0][..., :5], *convolved], axis=-1)

    def run(op):
        y, pull = jax.vjp(op, *arrays.values())
        return {'y': y} | dict(zip(arrays, pull(jnp.asarray(cotangent, y.dtype))))

    op = lambda implementation: lambda *a: inception_conv(*a[:4], bias=a[4], implementation=implementation)
    wanted, *several = cases.jit(lambda: [run(f) for f in (parts, op(None), op('reference'))])()
    for found in several:
        assert {x.dtype for x in found.values()} == {jnp.dtype(dtype)}
        assert_close(found, wanted, dict.fromkeys(wanted, cases.BARS[dtype]))

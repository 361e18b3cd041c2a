"""Every output and gradient of the causal convolution compared with a direct sum in float64; one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from tests.kernels.causal_conv1d import cases
from tests.kernels.causal_conv1d.cases import Case

CASES = [
    Case('one_token'),
    Case('one_token', state=True, bias=True),
    Case('two_tokens', state=True),
    pytest.param(Case('odd', bias=True, state=True), marks=pytest.mark.quick),
    Case('prime', bias=True),
    Case('prime', dtype='bfloat16', state=True),
    Case('one_tap', bias=True),
    Case('long', bias=True, dtype='bfloat16'),
    Case('power'),
    Case('behind_power', state=True),
    Case('path_x'),
    Case('longest', bias=True),
    Case('longest', bias=True, dtype='bfloat16'),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case):
    cases.check(case)


@pytest.mark.parametrize('case', [Case('two_tokens', state=True), Case('odd', bias=True)], ids=str)
def test_reference_outputs_and_gradients(case):
    cases.check(case, 'reference')


def test_what_runs_where_it_is_not_a_cpu(monkeypatch):
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **platforms: default(*args))
    cases.check(Case('long', bias=True, state=True))


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_double_precision(implementation):
    with jax.enable_x64(True):
        cases.check(Case('odd', bias=True, state=True, dtype='float64'), implementation)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_steps_and_parts_are_the_sequence(dtype):
    case = Case('two_tokens', bias=True, state=True, dtype=dtype)
    arrays = cases.device(case, cases.inputs(case))
    x = jnp.concatenate([arrays['x'], -arrays['x'], 2 * arrays['x']], axis=1)
    how, state = {'bias': arrays['bias']}, arrays['state']
    run = cases.jit(lambda x: causal_conv1d(x, arrays['kernel'], initial_state=state, **how))
    (whole, last), (first, between) = run(x), run(x[:, :1])
    outputs = [first[:, 0]]
    step = cases.jit(lambda token, state: causal_conv1d_step(token, arrays['kernel'], state=state, **how))
    for t in range(1, x.shape[1]):
        y, between = step(x[:, t], between)
        outputs.append(y)
    assert whole.dtype == last.dtype == between.dtype == dtype
    np.testing.assert_array_equal(between, last)
    np.testing.assert_allclose(
        *(np.asarray(x, np.float32) for x in (np.stack(outputs, 1), whole)),
        rtol=1e-5 if dtype == 'float32' else 8e-3,
        atol=1e-6,
    )

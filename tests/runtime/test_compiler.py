"""What XLA is told, and that it listens."""

import jax
import jax.numpy as jnp

from longview.runtime import compiler


def test_a_cpu_s_library_gets_products_and_no_sums(monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    x, w = jnp.ones((8 * 56 * 56, 64)), jnp.ones((64, 64))
    compiled = lambda f, options: jax.jit(f, compiler_options=options).lower(x, w).compile().as_text()
    squares, product = lambda x, w: jnp.sum(x * x, axis=-1), lambda x, w: x @ w
    assert 'ynn_fusion' in compiled(squares, {})  # where this fails, XLA's default has changed: measure again
    assert 'ynn_fusion' not in compiled(squares, compiler.forward_options('cpu'))
    assert 'ynn_fusion' in compiled(product, compiler.forward_options('cpu'))


def test_what_a_user_says_holds(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type= --xla_dump_to=/nowhere')
    assert compiler.forward_options('cpu') == {}
    monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=/nowhere')
    assert compiler.forward_options('cpu')


def test_other_platforms_are_told_nothing():
    assert all(compiler.forward_options(name) == {} for name in ('tpu', 'gpu'))

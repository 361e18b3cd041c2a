"""The errors for mistakes of a caller."""

import jax.numpy as jnp

from longview.kernels.linear_scan import linear_scan, linear_scan_step
from tests.kernels.mistakes import assert_sentences

MISTAKES = {
    'scan(x, x[0])': 'x has shape (3, 4); wanted (batch, tokens, channels).',
    'scan(x, x[:, :0])': 'x has shape (1, 0, 4), which is empty; wanted at least one of each.',
    'scan(x[0], x)': 'a has shape (3, 4); wanted (1, 3, 4), a decay per token, or (4,), one for all tokens.',
    'scan(x, x, initial_state=x)': 'The state has shape (1, 3, 4); wanted (batch, channels), here (1, 4).',
    'scan(x, x, implementation="xl")': "linear_scan has no implementation 'xl'; it has 'xla', ",
    'step(x, x, state=x)': 'x has shape (1, 3, 4); wanted (batch, channels).',
    'step(x[0], x[0], state=x)': 'The state has shape (1, 3, 4); wanted (batch, channels), here (3, 4).',
    'step(x[0] * 1j, x[0], state=x[0])': 'a is complex64 but the state float32; wanted a complex state.',
}

NAMES = {'scan': linear_scan, 'step': linear_scan_step, 'x': jnp.ones((1, 3, 4))}


def test_each_mistake_gets_its_sentence():
    assert_sentences(NAMES, MISTAKES)

"""The errors for mistakes of a caller."""

import jax.numpy as jnp

from longview.kernels.gla import bidirectional_gla, gla, gla_step
from tests.kernels.mistakes import assert_sentences

PER_HEAD = 'a log decay per key channel, or'
MISTAKES = {
    'gla(x[0], x, x, x)': 'q has shape (3, 2, 4); wanted (batch, tokens, heads, channels).',
    'gla(x, x[:, :2], x, x)': 'k has shape (1, 2, 2, 4); wanted that of q, (1, 3, 2, 4).',
    'gla(x, x, x[:, :, :1], x)': 'v has shape (1, 3, 1, 4); wanted (1, 3, 2, channels), to go with q.',
    'gla(x, x, x, x[..., :2])': f'g has shape (1, 3, 2, 2); wanted (1, 3, 2, 4), {PER_HEAD} (1, 3, 2), one per head.',
    'bidirectional_gla(x, x, x, x, x[0])': f'g_backward has shape (3, 2, 4); wanted (1, 3, 2, 4), {PER_HEAD} (1, 3, 2)',
    'gla(x, x, x, x, initial_state=x)': 'The state has shape (1, 3, 2, 4); wanted (batch, heads, K, V), '
    'here (1, 2, 4, 4).',
    'gla(e, e, e, e)': 'q has shape (1, 0, 2, 4), which is empty; wanted at least one of each.',
    'gla(x, x, x, x, chunk=0)': 'chunk is 0; wanted 1 or more, or None to choose by the shapes.',
    'gla(x, x, x, x, implementation="xl")': "gla has no implementation 'xl'; it has 'xla', 'reference', ",
    'gla_step(x, x, x, x, x)': 'q has shape (1, 3, 2, 4); wanted (batch, heads, channels).',
    'gla_step(x[0], x[0], x[0], x[0], x)': 'The state has shape (1, 3, 2, 4); wanted (batch, heads, K, V), '
    'here (3, 2, 4, 4).',
    'gla_step(x[0], x[0], x[0], x, x)': f'g has shape (1, 3, 2, 4); wanted (3, 2, 4), {PER_HEAD} (3, 2), one per head.',
}

NAMES = {
    'gla': gla,
    'bidirectional_gla': bidirectional_gla,
    'gla_step': gla_step,
    'x': jnp.ones((1, 3, 2, 4)),
    'e': jnp.ones((1, 0, 2, 4)),
}


def test_each_mistake_gets_its_sentence():
    assert_sentences(NAMES, MISTAKES)

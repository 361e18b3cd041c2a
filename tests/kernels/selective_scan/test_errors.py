"""The errors for mistakes of a caller."""

import jax.numpy as jnp

from longview.kernels.selective_scan import selective_scan, selective_scan_step
from tests.kernels.mistakes import assert_sentences

GROUPED = 'wanted (1, 3, 2), or (1, 3, groups, 2) with groups that divide the 4 channels, B and C alike.'
STATE = 'The state has shape (1, 3, 4); wanted (batch, channels, states), here'
MISTAKES = {
    'scan(u[0], u, A, B, B)': 'u has shape (3, 4); wanted (batch, tokens, channels).',
    'scan(e, e, A, B, B)': 'u has shape (1, 0, 4), which is empty; wanted at least one of each.',
    'scan(u, B, A, B, B)': 'delta has shape (1, 3, 2); wanted that of u, (1, 3, 4).',
    'scan(u, u, A, B, B, z=B)': 'z has shape (1, 3, 2); wanted that of u, (1, 3, 4).',
    'scan(u, u, A, B, B, A)': 'D has shape (4, 2); wanted (4,), one number a channel of u.',
    'scan(u, u, A, B, B, delta_bias=A)': 'delta_bias has shape (4, 2); wanted (4,), one number a channel of u.',
    'scan(u, u, A.T, B, B)': 'A has shape (2, 4); wanted (4, states), to go with u.',
    'scan(u, u, A, u, B)': f'B has shape (1, 3, 4); {GROUPED}',
    'scan(u, u, A, B, B[:, :, None])': f'C has shape (1, 3, 1, 2); {GROUPED}',
    'scan(u, u, A, G, G)': f'B has shape (1, 3, 3, 2); {GROUPED}',
    'scan(u, u, A, B, B, initial_state=u)': f'{STATE} (1, 4, 2).',
    'scan(u, u, A, B, B, implementation="xl")': "selective_scan has no implementation 'xl'; it has 'xla', ",
    'step(u, u, A, B, B, state=u)': 'u has shape (1, 3, 4); wanted (batch, channels).',
    'step(u[0], u[0], A, B[0], B[0], state=u)': f'{STATE} (3, 4, 2).',
}

SHAPES = {'u': (1, 3, 4), 'e': (1, 0, 4), 'A': (4, 2), 'B': (1, 3, 2), 'G': (1, 3, 3, 2)}


def test_each_mistake_gets_its_sentence():
    arrays = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    assert_sentences({'scan': selective_scan, 'step': selective_scan_step, **arrays}, MISTAKES)

"""The shell of the scans' TPU kernels, under the smallest of them: a running sum, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels import pallas, scan_tpu
from tests.kernels import tpu

BATCH, TOKENS, LANES = 2, 37, 130  # the last blocks of tokens and of lanes are partial


def _kernel(step, ins, outs, scratch):
    backwards = step.grid.backwards
    step.begin(scratch['sum'], ins['start'])

    def tile(n, total):
        x, sums = step.read(ins['x'], n), [None] * scan_tpu.TILE
        for i in step.order(backwards):
            sums[i] = total = total + x[i : i + 1]
        step.write(outs['sums'], n, jnp.concatenate(sums))
        return total

    scratch['sum'][...] = step.walk(backwards, tile, scratch['sum'][...])
    step.end(scratch['sum'], outs['last'])


def _running_sum(backwards, x, start):
    """Returns the sums up to each token of x (B, T, D), and the last one (B, 1, D)."""
    batch, tokens, lanes = x.shape
    grid = scan_tpu.Grid(batch, -(-lanes // scan_tpu.LANES), tokens, scan_tpu.TILE, scan_tpu.TILE, backwards)
    rows, row = grid.spec((1, grid.block, scan_tpu.LANES), 'btg'), grid.spec((1, 1, scan_tpu.LANES), 'b.g')
    specs = lambda arrays: {name: rows if name in ('x', 'sums') else row for name in arrays}
    ins, outs = {'x': x, 'start': start}, {'sums': pallas.output_like(x), 'last': pallas.output_like(start)}
    scratch = {'sum': (1, scan_tpu.LANES)}
    return scan_tpu.call(_kernel, grid, specs, ins, outs, scratch, scan_tpu.Work(x.size // batch), 'running_sum')


@pytest.mark.parametrize('backwards', [False, True])
def test_blocks_carry_what_they_hold_and_their_ends_are_partial(backwards):
    """Also under vmap, whose axis joins the batch; numbers are small and whole, so that sums are exact."""
    rng = np.random.default_rng(0)
    x, start = (rng.integers(-9, 9, (3, BATCH, n, LANES)).astype('float32') for n in (TOKENS, 1))
    run = jax.jit(jax.vmap(lambda x, start: _running_sum(backwards, x, start)))
    with tpu.interpreted():
        found = jax.device_get(run(x, start))
    order = slice(None, None, -1 if backwards else 1)
    wanted = start + np.cumsum(x[:, :, order], axis=2)[:, :, order]
    np.testing.assert_array_equal(found['sums'], wanted)
    np.testing.assert_array_equal(found['last'], wanted[:, :, :1] if backwards else wanted[:, :, -1:])

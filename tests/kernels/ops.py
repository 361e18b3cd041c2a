"""Every op with a small call of it, for the tests that all ops share (test_edges.py); a new op is one more row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from longview.kernels.attention import attention
from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.conv2d import conv2d
from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from longview.kernels.fused_block import fused_block
from longview.kernels.gla import bidirectional_gla, gla
from longview.kernels.linear_scan import linear_scan
from longview.kernels.long_conv import long_conv
from longview.kernels.long_conv2d import global_filter, long_conv2d
from longview.kernels.selective_scan import selective_scan


class Op(NamedTuple):
    """An op and the arguments of a call.

    shapes: by name, in the order of the op; `batched` are the arguments with a batch.
    negative: arguments that are below zero, such as log decays; `inside`: those between zero and one.
    options: its other arguments.
    kernel: whether a TPU runs a Pallas kernel.
    """

    function: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]
    batched: tuple[str, ...]
    negative: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    kernel: bool = True

    def arrays(self, dtype: str = 'float32') -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        draw = {name: rng.standard_normal(shape) for name, shape in self.shapes.items()}
        draw |= {name: -abs(draw[name]) for name in self.negative}
        draw |= {name: 1 / (1 + np.exp(-draw[name])) for name in self.inside}
        return {name: x.astype(dtype) for name, x in draw.items()}

    def __call__(self, arrays: dict[str, Any], implementation: str | None = None) -> tuple[jax.Array, ...]:
        """Returns the outputs for arrays by name."""
        found = self.function(**arrays, **self.options, implementation=implementation)
        return found if isinstance(found, tuple) else (found,)


_ROWS, _HEADS, _IMAGE = (2, 21, 8), (2, 21, 2, 4), (2, 7, 6, 8)
_QKV = {'q': _HEADS, 'k': _HEADS, 'v': (2, 21, 2, 6)}
_MAMBA = {'u': _ROWS, 'delta': _ROWS, 'A': (8, 4), 'B': (2, 21, 4), 'C': (2, 21, 4)}
_INCEPTION = {'x': _IMAGE, 'square': (3, 3, 1, 2), 'row': (1, 5, 1, 2), 'column': (5, 1, 1, 2)}
_FUSED = {
    'x': _IMAGE,
    'kernel': (3, 3, 4, 8),
    'kernel_bias': (8,),
    'up': (8, 16),
    'up_bias': (16,),
    'down': (16, 8),
    'down_bias': (8,),
}

OPS = {
    'gla': Op(gla, _QKV | {'g': _HEADS}, ('q', 'k', 'v', 'g'), negative=('g',)),
    'bidirectional_gla': Op(
        bidirectional_gla,
        _QKV | {'g_forward': _HEADS[:3], 'g_backward': _HEADS[:3]},
        ('q', 'k', 'v', 'g_forward', 'g_backward'),
        negative=('g_forward', 'g_backward'),
    ),
    'selective_scan': Op(selective_scan, _MAMBA, ('u', 'delta', 'B', 'C'), negative=('A',), options={'softplus': True}),
    'linear_scan': Op(linear_scan, {'a': _ROWS, 'x': _ROWS}, ('a', 'x'), inside=('a',)),
    'long_conv': Op(long_conv, {'u': _ROWS, 'kernel': (21, 8)}, ('u',)),
    'long_conv2d': Op(long_conv2d, {'u': _IMAGE, 'kernel': (5, 5, 8)}, ('u',)),
    'global_filter': Op(global_filter, {'u': _IMAGE, 'spectrum': (4, 2, 7, 8)}, ('u',)),
    'depthwise_conv': Op(depthwise_conv, {'x': _IMAGE, 'kernel': (3, 3, 1, 8)}, ('x',)),
    'inception_conv': Op(inception_conv, _INCEPTION, ('x',)),
    'conv2d': Op(conv2d, {'x': _IMAGE, 'kernel': (1, 1, 8, 4)}, ('x',), kernel=False),
    'fused_block': Op(fused_block, _FUSED, ('x',)),
    'causal_conv1d': Op(causal_conv1d, {'x': _ROWS, 'kernel': (4, 8)}, ('x',), kernel=False),
    'attention': Op(attention, _QKV, ('q', 'k', 'v'), options={'causal': True}, kernel=False),
}

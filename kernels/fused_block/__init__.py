"""A residual block of convolution and feed-forward layer in one op: `fused_block`."""

from longview.kernels.fused_block.api import fused_block

__all__ = ['fused_block']

"""Convolution along a sequence with a kernel as long as the input: `long_conv`."""

from kernels.long_conv.api import long_conv

__all__ = ['long_conv']

"""Short causal depthwise convolution of a sequence: `causal_conv1d`, and its step for one token."""

from longview.kernels.causal_conv1d.api import causal_conv1d, causal_conv1d_step

__all__ = ['causal_conv1d', 'causal_conv1d_step']

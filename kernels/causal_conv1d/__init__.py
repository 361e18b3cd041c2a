"""Short causal depthwise convolution along a sequence: `causal_conv1d` and its one-token form."""

from longview.kernels.causal_conv1d.api import causal_conv1d, causal_conv1d_step

__all__ = ['causal_conv1d', 'causal_conv1d_step']

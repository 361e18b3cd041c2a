"""Short causal depthwise convolution of a sequence: `causal_conv1d`, its step for one token, its form over devices."""

from longview.kernels.causal_conv1d.api import causal_conv1d, causal_conv1d_step
from longview.kernels.causal_conv1d.sharded import sequence_parallel_causal_conv1d

__all__ = ['causal_conv1d', 'causal_conv1d_step', 'sequence_parallel_causal_conv1d']

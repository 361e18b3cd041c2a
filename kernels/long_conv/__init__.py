"""Convolution along a sequence with a kernel as long as the input: `long_conv`.

`sequence_parallel_long_conv` is the same for a sequence that is split over devices.
"""

from longview.kernels.long_conv.api import long_conv
from longview.kernels.long_conv.sharded import sequence_parallel_long_conv

__all__ = ['long_conv', 'sequence_parallel_long_conv']

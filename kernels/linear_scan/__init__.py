"""h_t = a_t h_{t-1} + x_t: `linear_scan`, its sequence-parallel form and its step for one token."""

from longview.kernels.linear_scan.api import linear_scan, linear_scan_step
from longview.kernels.linear_scan.sharded import sequence_parallel_linear_scan

__all__ = ['linear_scan', 'linear_scan_step', 'sequence_parallel_linear_scan']

"""Mamba's scan: `selective_scan`, its sequence-parallel form and its step for one token."""

from longview.kernels.selective_scan.api import selective_scan, selective_scan_step
from longview.kernels.selective_scan.sharded import sequence_parallel_selective_scan

__all__ = ['selective_scan', 'selective_scan_step', 'sequence_parallel_selective_scan']

"""Gated linear attention: `gla`, `bidirectional_gla`, `gla_step`, and the sequence-parallel forms."""

from longview.kernels.gla.api import bidirectional_gla, gla, gla_step
from longview.kernels.gla.sharded import sequence_parallel_bidirectional_gla, sequence_parallel_gla

__all__ = [
    'bidirectional_gla',
    'gla',
    'gla_step',
    'sequence_parallel_bidirectional_gla',
    'sequence_parallel_gla',
]

"""Compiler options for the programs of a run, where XLA's defaults are slow for these networks."""

import os

_FLAG = 'xla_cpu_experimental_ynn_fusion_type'


def forward_options(platform: str) -> dict[str, str]:
    """Returns the ``compiler_options`` of `jax.jit` for programs without gradients; empty where none are needed.

    On a CPU, XLA passes matrix products to a library, and by default the reductions around them as well, for which it
    expands scalars to large arrays in memory. With the products alone PVT-v2-b1's outputs took 0.4 of the CPU time and
    ConvNeXt-T's 0.7. Training steps keep the default: gradients have many sums over rows, which are faster in the
    library than in XLA's own loops (a step of ResNet-50 would take twice as long); see docs/results.md. A value for the
    same flag in XLA_FLAGS takes precedence.
    """
    if platform != 'cpu' or _FLAG in os.environ.get('XLA_FLAGS', ''):
        return {}
    return {_FLAG: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}

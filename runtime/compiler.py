"""Compiler options for the programs of a run, where XLA's defaults are slow for these networks."""

import os

_FLAG = 'xla_cpu_experimental_ynn_fusion_type'


def forward_options(platform: str) -> dict[str, str]:
    """Returns the ``compiler_options`` of `jax.jit` for programs without gradients; empty where none are needed.

    On a CPU, XLA hands products to a library, and by default the sums around them as well: scalars are then laid out in
    memory as large arrays. Products alone took 0.4 of the CPU time for PVT-v2-b1's outputs and 0.7 for ConvNeXt-T's.
    Training steps want the default: sums over rows, of which gradients are full, are faster in the library than in
    XLA's own loops (ResNet-50's step would take twice as long); see docs/results.md. A value for the same flag in
    XLA_FLAGS takes precedence.
    """
    if platform != 'cpu' or _FLAG in os.environ.get('XLA_FLAGS', ''):
        return {}
    return {_FLAG: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}

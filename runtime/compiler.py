"""How XLA compiles a run's programs, where what it does by default serves our networks badly."""

# On a CPU, XLA hands products and convolutions to a library, and by default the sums and scalings around them as well:
# scalars are then laid out in memory as large arrays, and a depthwise convolution becomes thirty of them. One product
# at a time instead took 0.50 of the CPU time for PVT-v2-b1's outputs and 0.68 for ConvNeXt-T's; see docs/results.md.
_CPU = {'xla_cpu_experimental_ynn_fusion_type':
        'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'}


def options(platform: str) -> dict[str, str]:
    """Returns the ``compiler_options`` of `jax.jit` for programs of a platform; empty where none are needed."""
    return dict(_CPU) if platform == 'cpu' else {}

"""Networks run on a CPU here; what they lower to on other platforms is looked at in tests/kernels and test_pods.py."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.kernels import cpu

# They look at other platforms' programs, or count the operations of these.
EVERY_PLATFORM = (
    'test_over_the_mesh_of_a_run_a_tpu_takes_the_kernel',
    'test_off_cpus_the_gradient_is_jax_s',
    'test_multiply_adds_of_loops_branches_and_convolutions',
    'test_the_table_has_our_figures_beside_the_paper_s',
)


@pytest.fixture(autouse=True)
def only_what_a_cpu_takes(request: pytest.FixtureRequest) -> Iterator[None]:
    with contextlib.nullcontext() if request.function.__name__ in EVERY_PLATFORM else cpu.alone():
        yield

"""Networks run on a CPU here; what they lower to on other platforms is looked at in tests/kernels and test_pods.py."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.kernels import cpu

# They count the operations of a platform that is no CPU.
EVERY_PLATFORM = ('test_two_layers_are_one_of_low_rank',)


@pytest.fixture(autouse=True)
def only_what_a_cpu_takes(request: pytest.FixtureRequest) -> Iterator[None]:
    with contextlib.nullcontext() if request.function.__name__ in EVERY_PLATFORM else cpu.alone():
        yield

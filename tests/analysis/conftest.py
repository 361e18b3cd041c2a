"""Programs of these tests run once, and compile quickly."""

from collections.abc import Iterator

import pytest

from tests import runs


@pytest.fixture(autouse=True, scope='module')
def quickly() -> Iterator[None]:
    with runs.quickly():
        yield

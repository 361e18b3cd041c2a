"""Freed memory is kept, or left to whoever has said otherwise."""

import subprocess
import sys

import pytest

from longview.runtime import allocator

# Memory of a thread, as XLA's: page faults of ten arrays of 64 MiB, each freed before the next.
_FAULTS = """
import resource, sys, threading
from longview.runtime import allocator
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def allocate():
    b'x' * 2**26
    before = faults()
    for _ in range(10):
        b'x' * 2**26
    print(faults() - before)
if sys.argv[1] == 'kept':
    assert allocator.keep_memory({})
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
"""


@pytest.fixture
def glibc(monkeypatch):
    monkeypatch.setattr(allocator, '_ACCELERATORS', ())
    if allocator.platform.libc_ver()[0] != 'glibc':
        pytest.skip('another C library')


def _faults(how: str) -> int:
    said = subprocess.run([sys.executable, '-c', _FAULTS, how], capture_output=True, text=True, check=True)
    return int(said.stdout)


def test_kept_memory_is_not_faulted_in_again(glibc):
    assert _faults('kept') < 1000 < 10_000 < _faults('returned')  # 16,384 pages each


def test_what_a_user_says_holds(glibc, monkeypatch):
    monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: pytest.fail('the allocator was told something'))
    for name in ('MALLOC_ARENA_MAX', 'GLIBC_TUNABLES', 'LD_PRELOAD'):
        assert not allocator.keep_memory({name: '1'})


def test_beside_an_accelerator_nothing_changes(monkeypatch):
    monkeypatch.setattr(allocator, '_ACCELERATORS', ('/dev/null',))
    monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: pytest.fail('the allocator was told something'))
    assert not allocator.keep_memory({})

"""Strict by default: eight CPU devices, warnings are errors, ranks never broadcast silently, shapes are checked."""

import gc
import os
import pathlib
import signal
from collections.abc import Iterator

# Tracing makes millions of objects that live: looking through them less often saves a seventh of the time.
gc.set_threshold(50_000, 20, 50)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
# libtpu compiles ahead of time for TPUs on this host; several test processes may load it at once.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  # the hook looks it up by name

# Checks every annotation of our own code, in the tests only.
install_import_hook(['longview'], 'tests.typecheck.typecheck')

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(__file__).parents[1] / '.cache' / 'xla'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C as Python has it, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--compile',
        choices=('quick', 'full'),
        default='quick',
        help='how hard XLA tries where tests compile: quick (the default) spares what costs time and changes no number '
        'by more than rounding; XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 (AVX2, AVX512) stands for another processor',
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption('--compile') == 'full':
        from tests.goldens.networks import QUICK

        QUICK.clear()  # read wherever something is compiled


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a network run in one process, which keeps what they share: its shapes, its gradients."""
    for item in items:
        name = item.callspec.params.get('name') if hasattr(item, 'callspec') else None
        if isinstance(name, str):
            item.add_marker(pytest.mark.xdist_group(name))

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
from tests import durations

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

    parser.addoption(
        '--record',
        action='store_true',
        help='write what the tests that run cost into tests/durations.tsv; for a machine where nothing else runs',
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Memory())
    if config.getoption('--record'):
        config.pluginmanager.register(durations.recorder())
    if config.getoption('--compile') == 'full':
        from tests.goldens.networks import QUICK

        QUICK.clear()  # read wherever something is compiled


class _Memory:
    """Drops compiled programs when a test process has grown by a gibibyte and a half since it last did so."""

    step = 3 << 29

    def __init__(self) -> None:
        self.limit = 2 * self.step

    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        if nextitem is not None and _resident() > self.limit:
            jax.clear_caches()
            gc.collect()
            self.limit = _resident() + self.step


def _resident() -> int:
    """Returns the bytes of memory of this process; 0 where the system does not say."""
    statm = pathlib.Path('/proc/self/statm')
    return int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if statm.exists() else 0


# One network of each loop over blocks, and what scans: of the tests that all networks have, `-m quick` runs theirs.
_QUICK = ('vit_test', 'swinv2_test', 'resnet_test', 'mamba_test')


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is quick of the tests that all networks have, and puts the costliest groups of tests first."""
    for item in items:
        name = item.callspec.params.get('name') if hasattr(item, 'callspec') else None
        if name in _QUICK and not item.get_closest_marker('heavy'):
            item.add_marker(pytest.mark.quick)
    order = durations.costliest_first([item.nodeid for item in items], durations.rows())
    items[:] = [items[place] for place in order]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Runs the tests of a group in one process, which keeps what they share."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return durations.group(nodeid)

    return ByGroup(config, log)

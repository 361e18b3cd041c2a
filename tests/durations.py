"""What the tests cost, and which of them share a process.

CPU seconds by file and subject are recorded by ``python -m pytest -n 2 --record``.

A row of tests/durations.tsv is a test file, a subject (the network, golden or method that tests are run for, else the
test function), its number of tests, and their CPU seconds together, child processes included. tests/test_durations.py
holds new papers to a budget by it, and the costliest groups of tests begin first.
"""

import collections
import csv
import os
import pathlib
import re
from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import pytest

TABLE = pathlib.Path(__file__).with_suffix('.tsv')
# Files that run over the whole zoo: what is traced or computed for a network is shared by their tests of it. The tests
# of every other file share what the file makes.
_BY_SUBJECT = frozenset(
    f'tests/{name}.py'
    for name in (
        'modelzoo/test_contract',
        'modelzoo/sequence/test_contract',
        'modelzoo/test_weights',
        'test_configs',
        'test_goldens',
        'test_papers',
    )
)
# CPU seconds that a new paper's tests may cost, on average over the new papers.
BUDGET = 8.0
_PROPERTY = 'cpu_seconds'


class Row(NamedTuple):
    """A row of the table."""

    file: str
    subject: str
    tests: int
    seconds: float


def rows(table: pathlib.Path = TABLE) -> list[Row]:
    """Returns the recorded rows, none where nothing was recorded yet."""
    if not table.exists():
        return []
    with open(table, newline='') as file:
        read = csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
        return [Row(row['file'], row['subject'], int(row['tests']), float(row['seconds'])) for row in read]


def subject(nodeid: str) -> str:
    """Returns what a test is run for: its first parameter, where that is a name, else the test function.

    >>> subject('tests/test_goldens.py::test_networks_agree[vig_tiny]')
    'vig_tiny'
    >>> subject('tests/test_configs.py::test_config_builds_its_state[vig_s-smoke]')
    'vig_s'
    >>> subject('tests/test_train.py::test_a_run[True-mesh0]')
    'test_a_run'
    """
    function, _, parameters = nodeid.rpartition('::')[2].partition('[')
    word = parameters.removesuffix(']').partition('-')[0]
    return word if re.fullmatch(r'[a-z][a-z0-9]*(_\w+)+|[a-z]{3,}\d*', word) else function


def group(nodeid: str) -> str:
    """Returns what tests have in common that run in one process: their subject, or their file.

    >>> group('tests/modelzoo/test_contract.py::test_shapes[vig_tiny]')
    'vig_tiny'
    >>> group('tests/test_train.py::test_a_run[vig_tiny]')
    'tests/test_train.py'
    """
    file = nodeid.partition('::')[0]
    return subject(nodeid) if file in _BY_SUBJECT else file


def costliest_first(nodeids: Sequence[str], recorded: Iterable[Row]) -> list[int]:
    """Returns an order of tests: groups together, those first that took longest by what was recorded."""
    seconds = {(row.file, row.subject): row.seconds / row.tests for row in recorded}
    cost: collections.Counter[str] = collections.Counter()
    for nodeid in nodeids:
        cost[group(nodeid)] += seconds.get((nodeid.partition('::')[0], subject(nodeid)), 0.0)
    first = {group(nodeid): place for place, nodeid in reversed(list(enumerate(nodeids)))}
    key = lambda place: (-cost[group(nodeids[place])], first[group(nodeids[place])], place)
    return sorted(range(len(nodeids)), key=key)


class Recorder:
    """A pytest plugin that measures every test, in whichever process it runs, and writes the table at the end."""

    def __init__(self, table: pathlib.Path = TABLE) -> None:
        self.table, self.seconds = table, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        item.stash[_START] = _cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Generator:
        report = yield
        if call.when == 'teardown':
            report.user_properties.append((_PROPERTY, _cpu_seconds() - item.stash[_START]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == 'teardown':
            self.seconds[report.nodeid] = dict(report.user_properties)[_PROPERTY]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        # A test that failed has its cost too: the one that asks for a paper's rows fails until they are recorded.
        if 'PYTEST_XDIST_WORKER' not in os.environ and exitstatus <= pytest.ExitCode.TESTS_FAILED:
            write(self.seconds, self.table)


_START = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def recorder() -> Recorder:
    """Returns the plugin.

    Raises:
        pytest.UsageError: other work goes on here, with which tests share caches and memory and cost more.
    """
    load = os.getloadavg()[0]
    if load >= 1 and 'PYTEST_XDIST_WORKER' not in os.environ:
        raise pytest.UsageError(f'--record: the load of this machine is {load:.1f}: wait until it is below 1.')
    return Recorder()


def write(seconds: dict[str, float], table: pathlib.Path = TABLE) -> None:
    """Replaces the rows of all files that were run; those of other files stay."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for nodeid, cost in seconds.items():
        found[nodeid.partition('::')[0], subject(nodeid)].append(cost)
    new = [Row(*key, len(costs), round(sum(costs), 1)) for key, costs in found.items()]
    files = {row.file for row in new}
    kept = [row for row in rows(table) if row.file not in files]
    lines = ['\t'.join(map(str, row)) for row in sorted(kept + new)]
    table.write_text('\n'.join(['\t'.join(Row._fields), *lines, '']))

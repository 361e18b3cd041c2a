"""New papers keep to their budget of test time; and the record that shows it."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable

import pytest

from longview import modelzoo
from tests import durations, ledger, runs

# What stood when the budget was set: with its tests the default suite took what tests/durations.tsv says of it.
FIRST = frozenset(
    'C001 C004 C008 C009 C010 C011 C014 C018 C020 C029 C030 C031 C035 C037 C038 C039 C041 C043 C045 C047 C051 C054 '
    'C056 C058 C060 C070 C074 C075 C076 C079 C081 N015 N020 N033 N058 N061 N081 N103 N106 N114 N116'.split()
)
RECORD = 'record it where nothing else runs: python -m pytest -n 2 --record tests/FILE.py'


def of(paper: ledger.Paper, recorded: Iterable[durations.Row]) -> list[durations.Row]:
    """Returns the rows of a paper's tests.

    They are those run for one of its networks, goldens or configs, or for a tiny network of its file; and those whose
    function, file or folder carries the name of its file or of a config, as test_vig.py and test_rotnet_turns do.
    """
    place = pathlib.PurePath(paper.file)
    word = place.parent.name if place.stem == 'network' else place.stem
    words = {word, *paper.configs}
    names = {*paper.goldens, *ledger.variants(paper), *_tiny(paper), *words}

    def owned(row: durations.Row) -> bool:
        path = pathlib.PurePath(row.file)
        named = any(word in row.subject for word in words) if row.subject.startswith('test_') else row.subject in names
        return named or path.stem == f'test_{word}' or word in path.parts

    return [row for row in recorded if owned(row)]


def _tiny(paper: ledger.Paper) -> list[str]:
    """Returns the tests' own networks of a paper's file."""
    if not paper.models:
        return []
    module = 'longview.' + paper.file.removesuffix('.py').replace('/', '.')
    return [name for name in modelzoo.list_models('*_test') if modelzoo.find(name)[0].__name__ == module]


def test_every_paper_has_its_tests_and_new_ones_keep_to_the_budget() -> None:
    recorded = durations.rows()
    papers = {paper.id: paper for paper in ledger.papers() if paper.file}
    without = [paper for paper in papers if not of(papers[paper], recorded)]
    assert not without, f'no row of tests/durations.tsv is about {", ".join(without)}: {RECORD}'
    new = papers.keys() - FIRST
    costs = {row: row.seconds for paper in new for row in of(papers[paper], recorded)}
    dear = sorted(costs, key=costs.get, reverse=True)[:10]
    assert sum(costs.values()) <= durations.BUDGET * len(new), f'the dearest of {len(new)} papers: {dear}'


def test_a_paper_s_rows_are_found_by_its_names() -> None:
    vig = next(paper for paper in ledger.papers() if paper.id == 'C076')
    row = lambda file, subject: durations.Row(f'tests/{file}', subject, 1, 1.0)
    own = [
        row('test_goldens.py', 'vig_h_tiny'),
        row('modelzoo/test_contract.py', 'vig_test'),
        row('test_configs.py', 'vig_s'),
        row('modelzoo/test_vig.py', 'test_pieces'),
        row('kernels/test_x.py', 'test_what_vig_needs'),
    ]
    others = [
        row('test_goldens.py', 'vit_tiny'),
        row('test_goldens.py', 'vigorous'),
        row('test_train.py', 'test_a_run'),
    ]
    assert of(vig, own + others) == own


def test_the_table_keeps_what_was_not_run_again(tmp_path) -> None:
    table = tmp_path / 'durations.tsv'
    durations.write(
        {'tests/a.py::test_x[vig_s-1]': 1.04, 'tests/a.py::test_y[vig_s-2]': 2.0, 'tests/b.py::test_z': 3.0}, table
    )
    assert table.read_text() == 'file\tsubject\ttests\tseconds\ntests/a.py\tvig_s\t2\t3.0\ntests/b.py\ttest_z\t1\t3.0\n'
    durations.write({'tests/b.py::test_new': 4.0}, table)
    assert table.read_text().splitlines()[1:] == ['tests/a.py\tvig_s\t2\t3.0', 'tests/b.py\ttest_new\t1\t4.0']


def test_a_busy_machine_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(os, 'getloadavg', lambda: (3.25, 0.0, 0.0))
    monkeypatch.delenv('PYTEST_XDIST_WORKER', raising=False)
    with pytest.raises(pytest.UsageError, match='load of this machine is 3.2: wait until it is below 1'):
        durations.recorder()


def test_a_recorded_test_counts_its_processes(tmp_path) -> None:
    work = 'sum(i * i for i in range(3_000_000))'
    lines = ['import subprocess, sys', '', 'def test_work():']
    lines += [f"    subprocess.run([sys.executable, '-c', '{work}'], check=True)"]
    (tmp_path / 'test_it.py').write_text('\n'.join(lines))
    (tmp_path / 'pytest.ini').write_text('[pytest]')
    options = ['-p', 'no:cacheprovider', f'--rootdir={tmp_path}', str(tmp_path / 'test_it.py')]
    program = (
        'import pathlib, pytest; from tests import durations; '
        f'raise SystemExit(pytest.main({options}, [durations.Recorder(pathlib.Path({str(tmp_path / "table.tsv")!r}))]))'
    )
    alone = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST')}
    subprocess.run([sys.executable, '-c', program], cwd=runs.ROOT, env=alone, check=True, capture_output=True)
    (row,) = durations.rows(tmp_path / 'table.tsv')
    assert row[:3] == ('test_it.py', 'test_work', 1) and row.seconds > 0


def test_groups_are_kept_together_and_the_costliest_begins() -> None:
    recorded = [
        durations.Row('tests/test_b.py', 'test_x', 1, 1.0),
        durations.Row('tests/test_goldens.py', 'vig_tiny', 1, 5.0),
    ]
    tests = ['tests/test_a.py::test_x', 'tests/modelzoo/test_weights.py::test_y[vig_tiny]', 'tests/test_b.py::test_x']
    tests += ['tests/test_a.py::test_y', 'tests/test_goldens.py::test_y[vig_tiny]']
    assert durations.costliest_first(tests, recorded) == [1, 4, 2, 0, 3]


@pytest.mark.parametrize(
    'nodeid, subject',
    [
        ('tests/test_goldens.py::test_networks_agree[vig_tiny]', 'vig_tiny'),
        ('tests/test_configs.py::test_config_builds_its_state[vig_s-smoke]', 'vig_s'),
        ('tests/methods/test_methods.py::test_it[swav]', 'swav'),
        ('tests/test_train.py::test_a_run[True-mesh0]', 'test_a_run'),
        ('tests/test_train.py::test_a_run', 'test_a_run'),
    ],
)
def test_a_test_is_run_for_its_first_parameter(nodeid: str, subject: str) -> None:
    assert durations.subject(nodeid) == subject

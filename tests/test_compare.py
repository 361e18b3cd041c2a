"""Runs side by side: what is read of them, tables, means over seeds, curves."""

import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import PIL.Image
import pytest

from longview import compare
from longview.runtime import comparison, textplot
from longview.runtime.plan import Run
from tests import test_docs
from tests.runs import ROOT

pytestmark = pytest.mark.quick


def made(workdir: pathlib.Path, accuracies: list[float], **config: Any) -> pathlib.Path:
    """Writes the workdir of a run with these accuracies after every tenth step."""
    workdir.mkdir(parents=True)
    (workdir / 'config.json').write_text(json.dumps({'seed': 0, 'optimizer': {'peak': 1.0}} | config, sort_keys=True))
    rows = [{'step': 5, 'train/loss': 2.0}]
    rows += [{'step': 10 * n, 'eval/accuracy': a, 'eval/loss': 1 - a} for n, a in enumerate(accuracies, start=1)]
    (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return workdir


@pytest.fixture
def sweep(tmp_path) -> pathlib.Path:
    """Two seeds under each of two rates; the second rate's runs are at their best after the first evaluation."""
    folder = tmp_path / 'sweep'
    for seed, shift in ((9, 0.0), (10, 0.1)):
        made(folder / f'seed={seed},peak=1.0', [0.5, 0.6 + shift], seed=seed)
        made(folder / f'seed={seed},peak=2.0', [0.4, 0.3 + shift], seed=seed, optimizer={'peak': 2.0})
    return folder


def rows_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_shows_what_differs_and_what_was_reached(sweep):
    table = rows_of(compare.compare([str(sweep)]))
    assert table[0] == 'run peak seed step accuracy best step accuracy at best'.split()
    assert table[1] == 'seed=9,peak=1.0 1.0 9 20 0.6 20 0.6'.split()
    assert table[2] == 'seed=9,peak=2.0 2.0 9 20 0.3 10 0.4'.split()
    assert [row[0] for row in table[3:5]] == ['seed=10,peak=1.0', 'seed=10,peak=2.0'], 'numbers are sorted as such'


def test_means_are_over_runs_that_differ_in_the_seed_alone(sweep):
    means = rows_of(compare.compare([str(sweep)]).split('\n\n')[2])
    deviation = statistics.stdev([0.6, 0.7])
    assert means[1] == f'seed=9,peak=1.0 and 1 more 1.0 20 0.65 ± {deviation:.2g} (n=2) 0.65 ± 0.071 (n=2)'.split()
    assert means[2] == 'seed=9,peak=2.0 and 1 more 2.0 20 0.35 ± 0.071 (n=2) 0.4 ± 0 (n=2)'.split()
    alone = compare.compare([str(sweep / 'seed=9,peak=1.0'), str(sweep / 'seed=9,peak=2.0')])
    assert 'Mean' not in alone


def test_what_is_not_finite_or_not_there_is_left_out_of_means():
    assert comparison.Spread.of([1.0, math.nan, None, 3.0]) == (2, 2.0, math.sqrt(2))
    assert str(comparison.Spread.of([None])) == '-' and str(comparison.Spread.of([0.5])) == '0.5'


def test_the_figure_that_decides_is_the_config_s_and_others_are_shown_beside_it(tmp_path):
    made(tmp_path / 'a', [0.5, 0.9, 0.7], best='eval/loss', best_mode='min')
    made(tmp_path / 'b', [0.5], seed=1, best='eval/loss', best_mode='min')
    assert rows_of(compare.compare([str(tmp_path)]))[1] == 'a 0 30 0.3 20 0.1'.split()
    shown = compare.compare([str(tmp_path)], ['eval/accuracy', 'train/loss'])
    assert rows_of(shown)[0] == 'run seed step accuracy loss best step accuracy at best loss at best'.split()
    assert rows_of(shown)[1] == 'a 0 30 0.7 2 20 0.9 -'.split()


def test_a_config_that_says_nothing_of_it_has_the_defaults_of_a_run():
    fields = {field.name: field.default for field in dataclasses.fields(Run)}
    assert comparison._DEFAULTS == {name: fields[name] for name in comparison._DEFAULTS}


def test_a_stage_differs_by_the_stages_that_it_reads(tmp_path):
    for name, peak in (('x', 1.0), ('y', 2.0)):
        made(tmp_path / name / 'teacher', [0.5], optimizer={'peak': peak})
        student = made(tmp_path / name / 'student', [0.8])
        (student / 'stage.json').write_text(json.dumps({'reads': {'teacher': 'digest'}, 'digest': 'digest'}))
    students = comparison.find([tmp_path / name / 'student' for name in ('x', 'y')])
    assert comparison.differing(students) == ['teacher/optimizer.peak']
    assert len(comparison.groups(students)) == 2, 'the teachers differ in more than the seed'
    assert [outcome.name for outcome in comparison.find([tmp_path])] == [
        'x/student',
        'x/teacher',
        'y/student',
        'y/teacher',
    ]


def test_a_run_that_has_only_begun_and_one_killed_while_writing(tmp_path):
    made(tmp_path / 'a', []).joinpath('metrics.jsonl').write_text('')
    broken = made(tmp_path / 'b', [0.5])
    with (broken / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 20, "eval/acc')
    table = rows_of(compare.compare([str(tmp_path)]))
    assert table[1] == 'a 0 - - -'.split() and table[2] == 'b 10 0.5 10 0.5'.split()


def test_many_differences_are_counted_and_in_the_json(tmp_path, capsys):
    for name, value in (('a', 1), ('b', 2)):
        made(tmp_path / name, [0.5], **{f'key{n}': value for n in range(9)})
    assert 'They differ in 3 more keys, which --json lists.' in compare.compare([str(tmp_path)])
    compare.main([str(tmp_path), '--json', '--curves'])
    data = json.loads(capsys.readouterr().out)
    assert data['runs'][1]['config'] == {f'key{n}': 2 for n in range(9)}
    assert data['runs'][0]['final'] == data['runs'][0]['at_best'] == {'eval/accuracy': 0.5}
    assert data['means'][0]['final'] == {'eval/accuracy': {'count': 1, 'mean': 0.5, 'deviation': None}}


@pytest.mark.parametrize(
    'arguments, words',
    [
        ([], 'the following arguments are required: RUN'),
        (['{}/sweep', '--figure=eval/loss'], 'unrecognized arguments: --figure=eval/loss'),
        (['{}/sweeep'], 'sweeep is no folder: name the workdir of a run, or the folder of a sweep.'),
        (['{}/empty'], 'empty holds no run (no metrics.jsonl in it or below it): name'),
        (['{}/sweep', '--figures=eval/acuracy'], "no run has measured 'eval/acuracy'; did you mean 'eval/accuracy'?"),
        (['{}/broken'], 'broken cannot be read'),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, words, sweep, tmp_path):
    (tmp_path / 'empty').mkdir()
    made(tmp_path / 'broken', [0.5]).joinpath('config.json').write_text('{')
    with pytest.raises(SystemExit) as end:
        compare.main([argument.format(tmp_path) for argument in arguments])
    assert end.value.code.startswith('error: ') and words in end.value.code
    assert len(end.value.code.splitlines()) == 1


def test_it_starts_without_jax_by_either_name(sweep):
    """What would make it slow to start is not imported."""
    code = (
        "import sys, longview.compare; print({'jax', 'numpy', 'flax', 'tensorboardX', 'matplotlib'} & {*sys.modules})"
    )
    run = lambda *words: subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run('-c', code).stdout == 'set()\n'
    by_file, by_name = (run(*words, str(sweep)).stdout for words in (['compare.py'], ['-m', 'longview.compare']))
    assert by_file == by_name == compare.compare([str(sweep)]) + '\n'


def test_the_commands_on_the_page_run(sweep, capsys):
    shown = test_docs.commands(pathlib.Path('docs/many_runs.md'))
    flags = [[w for w in words if w.startswith('--')] for words in shown if 'compare' in ' '.join(words)]
    assert len(flags) > 1
    for words in flags:
        compare.main([str(sweep), *words])
    assert 'accuracy at best' in capsys.readouterr().out


# --- curves ---


def test_curves_are_drawn_as_text(sweep, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    compare.main([str(sweep), '--curves', '--figures=eval/accuracy,eval/loss'])
    drawn = capsys.readouterr().out
    assert drawn.count('\neval/accuracy\n') == drawn.count('\neval/loss\n') == 1
    assert max(map(len, drawn[drawn.index('\neval/accuracy\n') :].splitlines())) <= 60
    assert '         x  seed=10,peak=1.0' in drawn


def test_a_curve_goes_through_its_points():
    lines = textplot.plot({'up': [(0, 0.0), (10, 1.0)], 'flat': [(0, 0.0)]}, 'y', width=24, height=4).splitlines()
    assert lines == [
        'y',
        '         1 |         ooo',
        '           |      ooo',
        '           |   ooo',
        '         0 |+oo',
        '           +------------',
        '            0         10',
        '         o  up',
        '         +  flat',
    ]


def test_what_cannot_be_drawn_is_left_out():
    assert textplot.plot({'a': [(0, math.nan)], 'b': []}, 'y') == 'y: nothing to draw'
    assert 'o' in textplot.plot({'a': [(0, math.inf), (5, 2.0)]}, 'y')


def test_curves_are_drawn_into_files(sweep, tmp_path):
    compare.main([str(sweep), f'--png={tmp_path / "new"}', '--figures=eval/accuracy,eval/loss'])
    for name in ('eval_accuracy', 'eval_loss'):
        with PIL.Image.open(tmp_path / 'new' / f'{name}.png') as image:
            assert len(set(image.convert('RGB').get_flattened_data())) > 10

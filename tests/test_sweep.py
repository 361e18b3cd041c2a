"""Sweeps: how they are written, that they are gone on with, and that one run does not spoil the others."""

import pathlib
import re
import shutil
import signal
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

from longview import train
from longview.configs import vig_s
from longview.engine.sweep import trials
from longview.runtime.errors import RunError
from longview.runtime.metrics import Metrics
from longview.runtime.preemption import Preempted
from longview.runtime.resolve import ConfigError
from tests import runs, test_docs, toys


@pytest.fixture(scope='module', autouse=True)
def quickly() -> Iterator[None]:
    with runs.quickly():
        yield


# --- how they are written ---


def names(text: str) -> list[str]:
    return [trial.name for trial in trials(text)]


@pytest.mark.quick
def test_a_sweep_is_the_product_of_its_values():
    found = trials('config.seed=0,1  --config.optimizer.schedule.peak=1e-3,.003\n')
    assert [trial.name for trial in found] == [
        'seed=0,peak=0.001',
        'seed=0,peak=0.003',
        'seed=1,peak=0.001',
        'seed=1,peak=0.003',
    ]
    assert found[2].flags == ('--config.seed=1', '--config.optimizer.schedule.peak=1e-3')


@pytest.mark.quick
def test_keys_are_as_short_as_tells_them_apart():
    assert names('config.stages.teacher.seed=0 config.stages.student.seed=1 config.train_transforms[0].mean=2') == [
        'teacher.seed=0,student.seed=1,mean=2'
    ]


@pytest.mark.quick
def test_values_with_commas_and_spaces_are_in_brackets_or_quotes():
    first, second = trials('config.data.mean=(0.5, 0.5),[[1,2],[3]]')
    assert (first.flags, second.flags) == (('--config.data.mean=(0.5, 0.5)',), ('--config.data.mean=[[1,2],[3]]',))
    assert [trial.flags[0] for trial in trials('config.name="a, b",\'c\',d')] == [
        f'--config.name={value}' for value in ('a, b', 'c', 'd')
    ]


@pytest.mark.quick
def test_folders_have_names_for_every_file_system_and_one_each():
    found = names('config.x="a/b","a b","a:b",None,True,-1,' + 'long' * 20)
    assert found[3:6] == ['x=None', 'x=True', 'x=-1']
    assert len(set(found)) == len(found) and all(len(name) < 60 for name in found)
    assert not set(''.join(found)) - set('abcdefghijklmnopqrstuvwxyzNT0123456789=_-.')
    assert names('config.x=1e-3') == names('config.x=0.001'), 'a number is one, however it is written'


@pytest.mark.quick
@pytest.mark.parametrize(
    'text, words',
    [
        ('', '--sweep names no key'),
        ('config.seed', "--sweep has 'config.seed': write a key and its values"),
        ('seed=0,1', "--sweep has 'seed=0,1': write a key and its values, as in config.seed=0,1,2"),
        ('config.seed=0,1,', 'no value beside a comma of config.seed'),
        ('config.seed=0,1,0', 'gives config.seed the value 0 twice'),
        ('config.seed=0 config.seed=1', 'has config.seed twice'),
        ('config.x=(1,2', 'a bracket is not closed'),
        ('config.x="1,2', 'a quote is not closed'),
    ],
)
def test_what_cannot_be_a_sweep_is_refused(text, words):
    with pytest.raises(ValueError, match=words.replace('(', r'\(')):
        trials(text)


@pytest.mark.quick
def test_the_sweeps_on_the_page_can_be_run():
    page = (runs.ROOT / 'docs' / 'many_runs.md').read_text()
    shown = re.findall(r"--sweep '([^']+)'", page)
    assert len(shown) > 1 and all(
        test_docs.has(vig_s.get_config('digits'), key)
        for text in shown
        for key in re.findall(r'config\.([\w.]+)=', text)
    )
    assert [trial.name for trial in trials(shown[0])][::5] == ['seed=0,peak=0.001', 'seed=2,peak=0.003']
    assert len(trials(shown[1])) == 4


# --- how they run ---


def configs(**changes) -> dict[str, ConfigDict]:
    return {f'seed={seed}': toys.config(seed=seed, steps=4, **changes) for seed in (0, 1)}


@pytest.fixture(scope='module')
def done(tmp_path_factory) -> tuple[pathlib.Path, str]:
    """A sweep as the command line runs it, and what that prints."""
    workdir = tmp_path_factory.mktemp('done')
    flags = ('--config.steps', '4', '--sweep=config.seed=0,1', '--verbosity=-1')
    out, _ = runs.run('tests/toys.py', workdir, *flags)
    return workdir, out


def test_each_run_has_a_folder_and_all_are_shown_at_the_end(done):
    workdir, out = done
    assert sorted(path.name for path in workdir.iterdir()) == ['seed=0', 'seed=1']
    assert 'run 1 of 2: seed=0\n' in out and 'run 2 of 2: seed=1\n' in out
    accuracy = runs.rows(workdir / 'seed=1')[-1]['eval/accuracy']
    assert out.index('run     seed  step  accuracy') < out.index(f'seed=1     1     4  {accuracy:8.4g}')
    assert 'Mean ± standard deviation' in out


def test_the_same_command_runs_nothing_again(done, tmp_path, capsys):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    before = {path: path.read_bytes() for path in workdir.glob('*/metrics.jsonl')}
    scores = train.sweep(configs(), workdir)
    assert scores['seed=1']['eval/accuracy'] == runs.rows(workdir / 'seed=1')[-1]['eval/accuracy']
    assert capsys.readouterr().out.count('ended before, after step 4 of 4') == 2
    assert before == {path: path.read_bytes() for path in workdir.glob('*/metrics.jsonl')}


def test_a_sweep_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    write = Metrics.write

    def stopping(metrics, step, values):
        write(metrics, step, values)
        if step == 2 and 'seed=1' in str(metrics._path):
            signal.raise_signal(signal.SIGTERM)

    with (
        monkeypatch.context() as patch,
        pytest.raises(Preempted, match='SIGTERM came: step 2 of 4 is saved in .*seed=1'),
    ):
        patch.setattr(Metrics, 'write', stopping)
        train.sweep(configs(), tmp_path)
    assert runs.saved(tmp_path / 'seed=0') == [2, 4] and runs.saved(tmp_path / 'seed=1') == [2]
    train.sweep(configs(), tmp_path)
    train.train(configs()['seed=1'], tmp_path / 'alone')
    runs.assert_same_bits(tmp_path / 'alone', tmp_path / 'seed=1', 4)


def test_a_mistake_in_a_later_run_is_found_before_the_first(tmp_path):
    sweep = '--sweep=config.seed=0,1 config.optimizer.schedule.pek=1'
    _, err = runs.run('tests/toys.py', tmp_path / 'runs', sweep, status=1)
    assert "config.optimizer.schedule has no 'pek'; did you mean 'peak'?" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / 'runs').exists()


def test_a_name_that_does_not_exist_is_found_before_the_first_run(tmp_path):
    wrong = configs()
    wrong['seed=1'].task.backbone.fn = 'tests.toys:Nett'
    with pytest.raises(ConfigError, match="seed=1: config.task.backbone.fn: .* did you mean 'Net'"):
        train.sweep(wrong, tmp_path / 'runs')
    assert not (tmp_path / 'runs').exists()


def test_a_run_that_diverges_does_not_keep_the_next_one_from_running(tmp_path, capsys):
    spoilt = configs()
    spoilt['seed=0'].optimizer.schedule.peak = 1e38
    with pytest.raises(RunError, match=r'1 of 2 runs diverged \(seed=0\) and the others have ended'):
        train.sweep(spoilt, tmp_path)
    assert runs.saved(tmp_path / 'seed=1') == [2, 4]
    out = capsys.readouterr().out
    assert 'error: step' in out and 'seed=1  0.003     1     4' in out


def test_configs_with_stages_are_swept_over(tmp_path, capsys):
    stages = {name: ConfigDict({'stages': {'only': config.to_dict()}}) for name, config in configs().items()}
    scores = train.sweep(stages, tmp_path)
    assert scores.keys() == {'seed=0', 'seed=1'} and 'only/eval/accuracy' in scores['seed=0']
    assert runs.saved(tmp_path / 'seed=1' / 'only') == [2, 4]
    assert 'seed=1/only' in capsys.readouterr().out


@pytest.mark.heavy
def test_several_processes_sweep_and_stop_together(done, tmp_path):
    start = lambda *more: runs.start_together(
        'tests/toys.py', tmp_path, '--config.steps=4', '--sweep=config.seed=0,1', *more, processes=2, devices=2
    )
    for process in start():
        out, _ = runs.finish(process)
    for name in ('seed=0', 'seed=1'):
        ours, theirs = runs.rows(done[0] / name), runs.rows(tmp_path / name)
        assert [row['step'] for row in ours] == [row['step'] for row in theirs]
        assert ours[-1]['eval/loss'] == pytest.approx(theirs[-1]['eval/loss'], rel=1e-4)
    for process in start():
        out, _ = runs.finish(process)
    assert runs.saved(tmp_path / 'seed=1') == [2, 4]

"""The loop: what it writes, how often it compiles, and how it ends when something is wrong."""

import concurrent.futures
import logging
import pathlib
import resource
import shutil
import signal
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pytest

from longview import train
from longview.configs import vig_s
from longview.data import keyed
from longview.input_pipeline import Images
from longview.runtime.errors import RunError
from longview.runtime.metrics import Metrics
from longview.runtime.plan import read_run
from longview.runtime.preemption import Preempted
from longview.runtime.workdir import write_config
from tests import runs, toys
from tests.data import folder


@pytest.fixture(scope='module', autouse=True)
def quickly() -> Iterator[None]:
    with runs.quickly():
        yield


class Finished(NamedTuple):
    """A run of `toys.config()`, its last scores, and what jax said of what it compiled."""

    workdir: pathlib.Path
    scores: dict[str, float]
    compiled: list[str]


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    workdir, said = tmp_path_factory.mktemp('finished'), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger('jax').addHandler(handler)
    try:
        with jax.log_compiles():
            scores = train.train(toys.config(), workdir)
    finally:
        logging.getLogger('jax').removeHandler(handler)
    return Finished(workdir, scores, said)


@pytest.fixture
def copy(finished: Finished, tmp_path: pathlib.Path) -> pathlib.Path:
    """The workdir of a finished run, for a test to change."""
    return shutil.copytree(finished.workdir, tmp_path / 'copy')


@pytest.mark.quick
def test_a_run_writes_what_it_promises(finished: Finished) -> None:
    rows = runs.rows(finished.workdir, timings=True)
    logged = [row for row in rows if 'train/loss' in row]
    scored = [row for row in rows if 'eval/accuracy' in row]
    assert [row['step'] for row in logged] == [2, 4, 6, 8]
    assert [row['step'] for row in scored] == [4, 8]
    assert {'train/grad_norm', 'train/learning_rate', 'train/epoch', 'time/images_per_second'} <= logged[0].keys()
    assert all(row['eval/examples'] == 359 for row in scored)
    assert finished.scores['eval/accuracy'] == scored[-1]['eval/accuracy']
    assert logged[-1]['train/loss'] < logged[0]['train/loss']
    assert runs.saved(finished.workdir) == [6, 8]
    assert [runs.checkpoint(finished.workdir, step)['step'] for step in (6, 8)] == [6, 8], 'a step was left out'
    best = max(scored, key=lambda row: row['eval/accuracy'])['step']
    assert runs.saved(finished.workdir, 'best') == [best]
    assert any((finished.workdir / 'tensorboard').iterdir())


def test_the_step_is_compiled_once(finished: Finished) -> None:
    assert len([said for said in finished.compiled if said.startswith('Compiling jit(step)')]) == 1


def test_a_profile_is_a_trace_and_its_ten_costliest_operations(tmp_path: pathlib.Path) -> None:
    """In a process of its own: libtpu, which the tests of kernels load, breaks the profiler of theirs."""
    out, _ = runs.run('tests/toys.py', tmp_path, '--profile=1:2', '--config.steps=4')
    assert 'costliest operations' in out and out.count(' ms ') == 10
    assert list((tmp_path / 'profile').rglob('*.xplane.pb')) and list((tmp_path / 'profile').rglob('*.trace.json.gz'))


@pytest.mark.quick
def test_a_state_that_resumes_equals_one_that_ran_through(finished: Finished, copy: pathlib.Path) -> None:
    shutil.rmtree(copy / 'checkpoints' / '8')
    train.train(toys.config(), copy)
    runs.assert_same_bits(finished.workdir, copy, 8)


@pytest.mark.quick
def test_another_config_is_refused(copy: pathlib.Path) -> None:
    with pytest.raises(RunError, match='another config: config.seed was 0 and is now 1'):
        train.train(toys.config(seed=1), copy)


def test_a_checkpoint_of_another_network_is_refused(copy: pathlib.Path) -> None:
    (copy / 'config.json').unlink()
    other = toys.config()
    other.task.backbone.width = 48
    with pytest.raises(RunError, match=r'saved by another config or version: .*\[32\].* there and .*\[48\]'):
        train.train(other, copy)
    assert runs.saved(copy) == [6, 8]


def test_a_run_that_could_not_start_leaves_the_workdir_to_another(tmp_path) -> None:
    with pytest.raises(ValueError, match='does not score'):
        train.train(toys.config(best='eval/acuracy'), tmp_path)
    train.train(toys.config(steps=1), tmp_path)


def test_a_finished_run_does_nothing_more_also_in_other_microbatches(
    finished: Finished, copy: pathlib.Path, capsys
) -> None:
    before = (copy / 'metrics.jsonl').read_bytes()
    assert train.train(toys.config(accumulate=2), copy) == finished.scores
    assert 'ended before, after step 8 of 8:  eval/' in capsys.readouterr().out
    assert (copy / 'metrics.jsonl').read_bytes() == before


def test_microbatches_may_not_change_where_they_are_normalized(tmp_path) -> None:
    config = toys.config()
    config.task.backbone = {'fn': 'tests.toys:Normed'}
    write_config(tmp_path, read_run(config.to_dict())[1])
    (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
    config.accumulate = 2
    with pytest.raises(RunError, match='accumulate was 1 and is now 2'):
        train.train(config, tmp_path)


def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path, monkeypatch) -> None:
    check = lambda data: signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(Images, 'check', check)
    with pytest.raises(Preempted, match='SIGTERM came before the first step'):
        train.train(toys.config(), tmp_path)


def test_ctrl_c_saves_after_the_step(finished, tmp_path, monkeypatch, interrupts) -> None:
    write = Metrics.write

    def pressing(metrics, step, values):
        write(metrics, step, values)
        if step == 4 and 'train/loss' in values:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Preempted, match='Ctrl-C came: step 4 of 8 is saved'):
        patch.setattr(Metrics, 'write', pressing)
        train.train(toys.config(save_every=8), tmp_path)
    train.train(toys.config(save_every=8), tmp_path)
    runs.assert_same_bits(finished.workdir, tmp_path, 8)


def test_a_run_in_a_thread(tmp_path) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert 'eval/loss' in pool.submit(train.train, toys.config(steps=1), tmp_path).result()


def test_a_workdir_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='workdir cannot be made .* choose a --workdir'):
        train.train(toys.config(), tmp_path / 'file' / 'run')


@pytest.mark.quick
def test_a_batch_that_does_not_divide_by_the_mesh(tmp_path) -> None:
    with pytest.raises(
        ValueError, match='config.batch_size is 60, which does not divide over the 8 devices .* such as 56'
    ):
        train.train(toys.config(batch_size=60), tmp_path)


def test_a_head_with_too_few_classes(tmp_path) -> None:
    config = toys.config()
    config.task.head.num_classes = 9
    words = '9 logits and the data set has 10 classes: set --config.task.head.num_classes=10'
    with pytest.raises(ValueError, match=words):
        train.train(config, tmp_path)


def test_targets_of_other_classes(tmp_path) -> None:
    transforms = [{'fn': 'methods.augment:Normalize'}, {'fn': 'methods.augment:Mix', 'num_classes': 12}]
    transforms[0] |= {'mean': (0.5,), 'std': (0.5,)}
    words = r'of 12 classes and the data set has 10: set --config\.train_transforms\[1\]\.num_classes=10\.'
    with pytest.raises(ValueError, match=words):
        train.train(toys.config(train_transforms=transforms), tmp_path)


@pytest.mark.parametrize('num_classes', [None, 10])
def test_labels_that_are_numbers(num_classes: int | None, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Images, 'num_classes', None)
    config = toys.config()
    config.task.head.num_classes = num_classes
    with pytest.raises(ValueError, match='the labels of the data set are numbers'):
        train.train(config, tmp_path)


@pytest.mark.quick
def test_a_metric_nobody_scores(tmp_path) -> None:
    with pytest.raises(ValueError, match="'eval/acuracy', which the task does not score; it scores eval/"):
        train.train(toys.config(best='eval/acuracy'), tmp_path)


def test_a_nan_in_a_batch_names_step_and_place(tmp_path) -> None:
    _, index = keyed.stream(0, 2 * 64, 3 * 64, 1438)  # of the examples of step 2
    spoil = {'fn': 'tests.toys:Spoil', 'index': int(index[0]), 'epoch': 0}
    mesh = {'fn': 'runtime.mesh:MeshConfig', 'data': 2, 'fsdp': 4, 'fsdp_min_size': 1}
    config = toys.config(train_transforms=[spoil], save_every=1, mesh=mesh)
    with pytest.raises(RunError, match='step 2 is not finite: the batch transforms made it in image; the checkpoint'):
        train.train(config, tmp_path)
    assert runs.saved(tmp_path) == [1, 2]


def test_a_damaged_image_ends_the_run_and_keeps_what_was_saved(tmp_path) -> None:
    data = {
        'fn': 'input_pipeline:Images',
        'dataset': 'broken',
        'data_dir': folder.with_broken_sets(),
        'image_size': 8,
        'eval_split': 'train[3:]',
        'train_crop': {'fn': 'data.images:RandomResizedCrop'},
    }
    config = toys.config(
        data=data,
        batch_size=4,
        save_every=1,
        eval_every=8,
        mesh={'fn': 'runtime.mesh:MeshConfig', 'data': 4, 'tensor': 2},
    )
    with pytest.raises(ValueError, match="Example 2 of the split 'train' .* cannot be read"):
        train.train(config, tmp_path)
    names = [path.name for path in (tmp_path / 'checkpoints').iterdir()]
    assert names and all(name.isdigit() for name in names)


def test_a_variant_that_does_not_exist(tmp_path) -> None:
    config = vig_s.get_config('smoke')
    config.task.inner.backbone.variant = 'vig_smal'
    with pytest.raises(ValueError, match='vig_smal.*vig_small'):
        train.train(config, tmp_path)


def test_a_run_that_diverges_names_step_and_place(tmp_path) -> None:
    config = toys.config()
    config.optimizer.schedule.peak = 1e38
    with pytest.raises(RunError, match=r'step \d+ is not finite: the .*Lower the learning rate'):
        train.train(config, tmp_path)


def test_a_full_disk_keeps_what_was_saved(finished: Finished, copy: pathlib.Path) -> None:
    """A limit on the size of files makes every larger write fail, as a full disk does."""
    shutil.rmtree(copy / 'checkpoints' / '8')
    # How the arrays are spread over files differs from save to save; the metadata is one file of the same size in each.
    size = (copy / 'checkpoints' / '6' / 'default' / '_METADATA').stat().st_size
    limits = [(resource.RLIMIT_FSIZE, size // 2)]
    _, err = runs.run('tests/toys.py', copy, limits=limits, status=1)
    sentence = err.strip()
    assert sentence.startswith('error: a checkpoint could not be written') and '\n' not in sentence
    assert 'the checkpoint of step 6 is still there' in sentence
    assert runs.saved(copy) == [6]
    train.train(toys.config(), copy)
    runs.assert_same_bits(finished.workdir, copy, 8)


def test_an_image_that_the_patch_does_not_divide(tmp_path) -> None:
    config = vig_s.get_config('smoke')
    config.data.image_size = 36
    with pytest.raises(ValueError, match='36.*divide') as error:
        train.train(config, tmp_path)
    assert len(str(error.value).splitlines()) == 1

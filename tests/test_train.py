"""The loop: what it writes, how often it compiles, and how it ends when something is wrong."""

import concurrent.futures
import contextlib
import json
import resource
import signal
import subprocess
import sys

import jax
import pytest

from longview import train
from longview.configs import vig_s
from longview.input_pipeline import Images
from longview.runtime.errors import RunError
from longview.runtime.metrics import Metrics
from longview.runtime.preemption import Preempted
from tests import runs, toys
from tests.data import folder

ON_ALL = {'fn': 'runtime.mesh:MeshConfig', 'data': -1}


def test_a_run_writes_what_it_promises(tmp_path) -> None:
    scores = train.train(toys.config(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    logged = [row for row in rows if 'train/loss' in row]
    scored = [row for row in rows if 'eval/accuracy' in row]
    assert [row['step'] for row in logged] == [2, 4, 6, 8]
    assert [row['step'] for row in scored] == [4, 8]
    assert {'train/grad_norm', 'train/learning_rate', 'train/epoch', 'time/images_per_second'} <= logged[0].keys()
    assert all(row['eval/examples'] == 359 for row in scored)
    assert scores['eval/accuracy'] == scored[-1]['eval/accuracy']
    assert logged[-1]['train/loss'] < logged[0]['train/loss']
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['6', '8']
    best = max(scored, key=lambda row: row['eval/accuracy'])['step']
    assert [p.name for p in (tmp_path / 'best').iterdir()] == [str(best)]
    assert any((tmp_path / 'tensorboard').iterdir())


def test_a_profile_is_a_trace_and_its_ten_costliest_operations(tmp_path) -> None:
    """In a process of its own: libtpu, which the tests of kernels load, breaks the profiler of theirs."""
    run = f'train.train(toys.config(), {str(tmp_path)!r}, span=(3, 5))'
    program = f'from longview import train; from tests import toys; {run}'
    done = subprocess.run([sys.executable, '-c', program], cwd=runs.ROOT, capture_output=True, text=True, check=True)
    assert 'costliest operations' in done.stdout and done.stdout.count(' ms ') == 10
    assert list((tmp_path / 'profile').rglob('*.xplane.pb')) and list((tmp_path / 'profile').rglob('*.trace.json.gz'))


def test_the_step_is_compiled_once(tmp_path, caplog) -> None:
    with jax.log_compiles():
        train.train(toys.config(), tmp_path)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith('Compiling jit(step)')]
    assert len(compiled) == 1


def test_a_state_that_resumes_equals_one_that_ran_through(tmp_path) -> None:
    train.train(toys.config(), tmp_path / 'whole')
    train.train(toys.config(), tmp_path / 'parts')
    for step in (8, 6):
        subprocess.run(['rm', '-r', tmp_path / 'parts' / 'checkpoints' / str(step)], check=True)
        if step == 8:
            train.train(toys.config(), tmp_path / 'parts')
            runs.assert_same_bits(tmp_path / 'whole', tmp_path / 'parts', 8)
    with pytest.raises(RunError, match='another config: config.seed was 0 and is now 1'):
        train.train(toys.config(seed=1), tmp_path / 'parts')


def test_a_checkpoint_of_another_network_is_refused(tmp_path) -> None:
    train.train(toys.config(), tmp_path)
    (tmp_path / 'config.json').unlink()
    other = toys.config()
    other.task.backbone.width = 48
    with pytest.raises(RunError, match=r'saved by another config or version: .*\[32\].* there and .*\[48\]'):
        train.train(other, tmp_path)
    assert (tmp_path / 'checkpoints' / '8').exists()


def test_a_run_that_could_not_start_leaves_the_workdir_to_another(tmp_path) -> None:
    with pytest.raises(ValueError, match='does not score'):
        train.train(toys.config(best='eval/acuracy'), tmp_path)
    train.train(toys.config(steps=1), tmp_path)


@pytest.mark.parametrize('norm', [None, 'BatchNorm'])
def test_microbatches_may_change_when_a_run_goes_on_unless_they_are_normalized(norm, tmp_path) -> None:
    config = toys.config(steps=1)
    if norm:
        config.task.backbone = {'fn': 'tests.toys:Normed'}
    train.train(config, tmp_path)
    config.accumulate = 2
    with pytest.raises(RunError, match='accumulate was 1 and is now 2') if norm else contextlib.nullcontext():
        train.train(config, tmp_path)


def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path, monkeypatch) -> None:
    check = lambda data: signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(Images, 'check', check)
    with pytest.raises(Preempted, match='SIGTERM came before the first step'):
        train.train(toys.config(), tmp_path)


def test_ctrl_c_saves_after_the_step(tmp_path, monkeypatch, interrupts) -> None:
    train.train(toys.config(), tmp_path / 'whole')
    write = Metrics.write

    def pressing(metrics, step, values):
        write(metrics, step, values)
        if step == 4 and 'train/loss' in values:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Preempted, match='Ctrl-C came: step 4 of 8 is saved'):
        patch.setattr(Metrics, 'write', pressing)
        train.train(toys.config(save_every=8), tmp_path / 'parts')
    train.train(toys.config(save_every=8), tmp_path / 'parts')
    runs.assert_same_bits(tmp_path / 'whole', tmp_path / 'parts', 8)


def test_a_run_in_a_thread(tmp_path) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert 'eval/loss' in pool.submit(train.train, toys.config(steps=1), tmp_path).result()


def test_a_workdir_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='workdir cannot be made .* choose a --workdir'):
        train.train(toys.config(), tmp_path / 'file' / 'run')


def test_a_batch_that_does_not_divide_by_the_mesh(tmp_path) -> None:
    with pytest.raises(
        ValueError, match='config.batch_size is 60, which does not divide over the 8 devices .* such as 56'
    ):
        train.train(toys.config(batch_size=60, mesh=ON_ALL), tmp_path)


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


def test_a_metric_nobody_scores(tmp_path) -> None:
    with pytest.raises(ValueError, match="'eval/acuracy', which the task does not score; it scores eval/"):
        train.train(toys.config(best='eval/acuracy'), tmp_path)


@pytest.mark.parametrize('mesh', [{'fn': 'runtime.mesh:MeshConfig', 'data': 2, 'fsdp': 4}, ON_ALL])
def test_a_nan_in_a_batch_names_step_and_place(tmp_path, mesh) -> None:
    spoil = {'fn': 'tests.toys:Spoil', 'index': 5, 'epoch': 0}
    config = toys.config(train_transforms=[spoil], steps=40, save_every=1, mesh=mesh)
    with pytest.raises(
        RunError, match=r'step \d+ is not finite: the batch transforms made it in image; the checkpoint'
    ):
        train.train(config, tmp_path)
    assert list((tmp_path / 'checkpoints').iterdir())


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
        data=data, batch_size=4, save_every=1, mesh={'fn': 'runtime.mesh:MeshConfig', 'data': 4, 'tensor': 2}
    )
    with pytest.raises(ValueError, match="Example 2 of the split 'train' .* cannot be read"):
        train.train(config, tmp_path)
    saved = list((tmp_path / 'checkpoints').iterdir())
    assert saved and not any('tmp' in path.name for path in saved)


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


def test_a_full_disk_keeps_what_was_saved(tmp_path) -> None:
    """A limit on the size of files makes every larger write fail, as a full disk does."""
    config = 'configs/vig_s.py:digits'
    options = (
        '--config.steps=12',
        '--config.save_every=4',
        '--config.log_every=2',
        '--config.optimizer.schedule.warmup_epochs=0.0',
    )
    process = runs.start(config, tmp_path, *options)
    runs.when(process, lambda: (tmp_path / 'checkpoints' / '4').exists(), signal.SIGTERM)
    runs.finish(process, 0)
    saved = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
    # How the arrays are spread over files differs from save to save; the metadata is one file of the same size in each.
    size = (tmp_path / 'checkpoints' / max(saved, key=int) / 'default' / '_METADATA').stat().st_size
    process = runs.start(config, tmp_path, *options, limits=[(resource.RLIMIT_FSIZE, size // 2)])
    _, err = runs.finish(process, 1)
    (sentence,) = err.strip().splitlines()
    assert sentence.startswith('error: a checkpoint could not be written')
    assert 'is still there' in sentence
    assert saved <= {p.name for p in (tmp_path / 'checkpoints').iterdir()}
    runs.run(config, tmp_path, *options)


def test_an_image_that_the_patch_does_not_divide(tmp_path) -> None:
    process = runs.start('configs/vig_s.py:smoke', tmp_path, '--config.data.image_size=36')
    _, err = runs.finish(process, 1)
    last = err.strip().splitlines()[-1]  # the made-up images may have been prepared just now, which shows its progress
    assert last.startswith('error: ') and '36' in last and 'divide' in last

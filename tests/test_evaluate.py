"""Finished runs, opened and evaluated again."""

import json
import pathlib
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from longview import evaluate, train
from longview.configs import recorded
from longview.engine import judge
from longview.engine.opened import OpenedRun
from longview.methods.figures import by_class, calibration
from longview.runtime.resolve import resolve
from tests import runs, toys


def averaged():
    """A run with averages and an evaluation called as they are marked."""
    raw = {
        'raw_train': {'fn': 'runtime.plan:Eval', 'data': toys.config().data.to_dict() | {'eval_split': 'train[:64]'}}
    }
    config = toys.config(steps=12, evals=raw)
    task = config.task.to_dict()
    config.task = {'fn': 'methods.ema:Ema', 'inner': task, 'decay': 0.9}
    return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('finished')
    with runs.quickly():
        train.train(averaged(), workdir)
    return workdir


def row(workdir, step):
    return next(row for row in runs.rows(workdir) if row['step'] == step and 'eval/accuracy' in row)


def test_a_run_has_the_figures_again_that_it_wrote(workdir):
    best = runs.saved(workdir, 'best')[0]
    with runs.quickly():
        found = evaluate.evaluate(workdir)
        newest = evaluate.evaluate(workdir, raw=True, last=True)
    for name in ('eval/accuracy', 'eval/top5', 'eval/loss'):
        assert found.figures[name] == pytest.approx(row(workdir, best)[name], rel=1e-5)
        assert newest.figures[name] == pytest.approx(row(workdir, 12)[name.replace('/', '/raw_')], rel=1e-5)
        name = f'eval/raw_train/{name.partition("/")[2]}'
        assert found.figures[name] == pytest.approx(row(workdir, best)[name], rel=1e-5)
        assert newest.figures[name] == pytest.approx(row(workdir, 12)[name.replace('train/', 'train/raw_')], rel=1e-5)
    assert found.figures['eval/examples'] == found.confusion.sum() == found.classes['examples'].sum() == 359
    assert found.figures['eval/accuracy'] == pytest.approx(np.trace(found.confusion) / 359)
    assert list(found.names) == [str(n) for n in range(10)]


def test_another_split_and_the_mean_over_mirrored_images(workdir):
    config = recorded.get_config(str(workdir))
    config.data.eval_split = 'train'
    with runs.quickly():
        plain, flipped = evaluate.evaluate(workdir, config), evaluate.evaluate(workdir, config, flip=True)
    assert plain.figures['eval/examples'] == flipped.figures['eval/examples'] == 1438
    assert 'eval/loss' in flipped.figures and flipped.figures['eval/loss'] != plain.figures['eval/loss']


def test_an_opened_run_gives_its_network_and_rows_in_order(workdir):
    with runs.quickly():
        opened = OpenedRun(workdir)
        with jax.set_mesh(opened.mesh):
            rows = opened.gather(lambda task, v, batch: {'index': batch['index'], 'label': batch['label']})
            network = opened.networks['network']
    assert (rows['index'] == np.arange(359)).all()
    average = runs.checkpoint(workdir, opened.step, 'best')['variables/state/average/head/classifier/kernel']
    chex.assert_trees_all_equal(jax.device_get(network.variables['params']['head']['classifier']['kernel']), average)
    assert opened.data.class_names == tuple(map(str, range(10)))
    interface = json.loads((workdir / 'interface.json').read_text())
    assert interface['columns']['image'] == [[8, 8, 1], 'uint8'] and interface['classes'] == [str(n) for n in range(10)]


def test_the_command_prints_and_writes(workdir):
    program = ('-m', 'longview.evaluate', str(workdir))
    out, _ = runs.command(*program, '--name=mine')
    assert 'eval/accuracy' in out and 'precision' in out and 'confusion.png' in out
    folder = workdir / 'evaluations' / 'mine'
    figures = json.loads((folder / 'figures.json').read_text())
    assert figures['eval/accuracy'] == pytest.approx(row(workdir, runs.saved(workdir, 'best')[0])['eval/accuracy'])
    assert (folder / 'classes.csv').read_text().startswith('class,examples,precision,recall,f1')
    assert (folder / 'confusion.png').read_bytes()[1:4] == b'PNG'


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, words',
    [
        (['nowhere'], 'nowhere holds no run'),
        ([], '0 workdirs are named: give one'),
        (['WORKDIR', '--config.data.evalsplit=x'], "config.data has no 'evalsplit'"),
        (['WORKDIR', '--tta=flop'], 'flop'),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(arguments, words, monkeypatch, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(toys.config().to_dict(), default=str))
    arguments = [str(tmp_path) if word == 'WORKDIR' else word for word in arguments]
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *arguments])
    values = flags.FlagValues()
    evaluate._define_flags(values)
    with pytest.raises(SystemExit, match=words):
        evaluate._parse(sys.argv, values)


def test_what_cannot_be_evaluated_so_is_refused(workdir, tmp_path):
    config = recorded.get_config(str(workdir))
    config.task = config.task.inner.to_dict()
    with runs.quickly():
        with pytest.raises(ValueError, match='Supervised is no Ema, so the run averages no weights: take --weights'):
            evaluate.evaluate(workdir, config, raw=True)
        around = {'fn': 'methods.optim.loss_scale:LossScale', 'inner': recorded.get_config(str(workdir)).task.to_dict()}
        with pytest.raises(ValueError, match='LossScale is around the averages: take --weights=averaged'):
            judge._unaveraged(resolve(around))
        config.task.backbone.width = 16
        with pytest.raises(
            ValueError, match=r'hidden/bias is \(32,\) in the checkpoint of .* and \(16,\) by the config'
        ):
            evaluate.evaluate(workdir, config)
    with pytest.raises(FileNotFoundError, match='holds no run'):
        OpenedRun(pathlib.Path(tmp_path))


@pytest.mark.quick
def test_figures_by_class_are_those_of_single_examples():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(200, 6)).astype(np.float32), rng.integers(0, 5, 200)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = by_class.figures(probabilities, label)
    guess = probabilities.argmax(axis=1)
    assert found['accuracy'] == (guess == label).mean()
    ranked = np.argsort(-probabilities, axis=1)[:, :5]
    assert found['top5'] == pytest.approx((ranked == label[:, None]).any(axis=1).mean())
    assert found['loss'] == pytest.approx(-np.log(probabilities[np.arange(200), label]).mean(), rel=1e-6)
    sums = jax.device_get(calibration.reliability(jnp.asarray(logits), jnp.asarray(label), jnp.ones(200, bool)))
    assert found['calibration_error'] == pytest.approx(calibration.expected_error(sums), rel=1e-5)
    confusion = by_class.confusion(probabilities, label)
    assert confusion[2, 3] == ((label == 2) & (guess == 3)).sum() and confusion.sum() == 200
    classes = by_class.by_class(confusion)
    assert classes['recall'][1] == pytest.approx((guess == 1)[label == 1].mean())
    assert classes['precision'][1] == pytest.approx((label == 1)[guess == 1].mean())
    assert np.isnan(classes['recall'][5]) and classes['f1'][5] == 0

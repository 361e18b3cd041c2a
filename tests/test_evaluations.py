"""Evaluations that are no means: the same figures on any mesh, in batches of any size, in one process or two."""

import socket

import numpy as np
import PIL.Image
import pytest

from longview import train
from longview.runtime.evaluation import added
from longview.runtime.metrics import strip
from longview.runtime.plan import Eval
from tests import measured, runs, toys


@pytest.fixture(scope='module')
def one_device(tmp_path_factory: pytest.TempPathFactory):
    workdir = tmp_path_factory.mktemp('one')
    runs.run('tests/measured.py', workdir)
    return workdir


def figures(workdir) -> list[dict[str, float]]:
    found = [{k: v for k, v in row.items() if k.startswith('eval/')} for row in runs.rows(workdir)]
    return [row for row in found if row]


def assert_same(one, other) -> None:
    for ours, theirs in zip(figures(one), figures(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            exact = name.endswith(('count', 'examples', 'accuracy', 'last'))
            assert theirs[name] == (value if exact else pytest.approx(value, rel=1e-6)), name


def test_every_evaluation_has_its_figures_when_it_is_due(one_device) -> None:
    first, last = figures(one_device)
    assert {name.split('/')[1] for name in first} == {'dark'} and first['eval/dark/count'] == 359
    assert (last['eval/count'], last['eval/examples'], last['eval/last']) == (359, 359, 358)
    assert (last['eval/few/count'], last['eval/few/examples']) == (50, 50)
    assert last['eval/accuracy'] > 0.7 and last['eval/dark/accuracy'] != last['eval/accuracy']
    assert 359 * 0.4 < last['eval/drawn'] < 359 * 0.6


def test_pictures_of_the_first_examples_are_written(one_device) -> None:
    assert [path.name for path in sorted((one_device / 'pictures' / 'image').iterdir())] == [
        '00000001.png',
        '00000002.png',
    ]
    picture = np.asarray(PIL.Image.open(one_device / 'pictures' / 'turned' / '00000002.png'))
    assert picture.shape == (8, 3 * 9 - 1, 3) and picture[0, 8].tolist() == [255] * 3


def test_eight_devices_and_other_batches(one_device, tmp_path) -> None:
    config = measured.get_config()
    config.eval_batch_size = 40
    with runs.quickly():
        train.train(config, tmp_path)
    assert_same(one_device, tmp_path)


def test_two_processes(one_device, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    joined = ('--coordinator', f'localhost:{port}', '--num_processes=2', '--config.eval_batch_size=48')
    processes = [runs.start('tests/measured.py', tmp_path, *joined, f'--process_id={i}', devices=2) for i in (0, 1)]
    for process in processes:
        runs.finish(process)
    assert_same(one_device, tmp_path)
    assert list((tmp_path / 'pictures' / 'image').iterdir())


def test_a_best_metric_that_no_evaluation_gives_is_refused_before_the_first_step(tmp_path) -> None:
    config = measured.get_config()
    config.best = 'eval/few/loss'
    with pytest.raises(ValueError, match=r"'eval/few/loss', which the task does not score; .* eval/dark/accuracy"):
        train.train(config, tmp_path)


def test_a_name_or_a_pace_that_cannot_be(tmp_path) -> None:
    config = measured.get_config()
    config.evals = {'a/b': config.evals.few}
    with pytest.raises(ValueError, match="config.evals has the name 'a/b': use letters"):
        train.train(config, tmp_path)
    with pytest.raises(ValueError, match='every of an evaluation is 0'):
        Eval(every=0)


def test_sums_are_added_in_double_precision() -> None:
    total = None
    for _ in range(3):
        total = added(total, {'count': np.int32(2**31 - 1), 'loss': np.float32(2**24 + 2), 'one': np.float32(1)})
    assert total == {'count': 3 * (2**31 - 1), 'loss': 3 * (2.0**24 + 2), 'one': 3.0}
    assert total['count'].dtype == np.int64 and total['loss'].dtype == np.float64


def test_pictures_of_any_type_and_no_other_channels() -> None:
    assert strip(np.full((2, 2, 2, 1), 0.5), 'x').shape == (2, 5, 3)
    assert strip(np.full((1, 2, 2, 3), 1.5), 'x').max() == 255
    with pytest.raises(ValueError, match=r"the pictures 'x' have shape \(1, 2, 2, 4\)"):
        strip(np.zeros((1, 2, 2, 4)), 'x')


def one_image() -> dict[str, np.ndarray]:
    return {'image': np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 'label': np.int32(3)}


def test_a_data_set_that_is_one_example_lies_whole_on_every_device(tmp_path) -> None:
    split = {'partial': 'tests.test_evaluations:one_image'}
    data = {'fn': 'input_pipeline:Arrays', 'train_split': split, 'eval_split': split, 'num_classes': 10, 'whole': True}
    config = toys.config(data=data, batch_size=1, steps=20, eval_every=20)
    with runs.quickly():
        scores = train.train(config, tmp_path)
    assert scores['eval/accuracy'] == scores['eval/examples'] == 1
    config.batch_size = 8
    with pytest.raises(ValueError, match='config.batch_size is 8 and the data set is a single example: set it to 1'):
        train.train(config, tmp_path / 'other')

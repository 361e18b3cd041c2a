"""The picture of a batch: what the first step gets, and what is written below it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

from longview.engine import show
from longview.methods.task import TrainState, Variables, chain, make_step
from longview.runtime.plan import read_run
from tests import runs, toys


def images(*values: float) -> np.ndarray:
    """(B, 2, 2, 1) with the upper left pixel 0, the lower right one of these values and 1 between them."""
    return np.array([[[[0], [1]], [[1], [value]]] for value in values], np.float32)


@pytest.mark.quick
def test_floats_are_stretched_and_labels_stand_below() -> None:
    batch = {'image': images(4, -3), 'label': np.array([1, 0], np.int32)}
    picture = show.picture_of(batch, ('cat', 'dog'), across=2)
    side = show._SIDE
    first, second = picture[:side, :side], picture[:side, side + 1 : 2 * side + 1]
    corners = lambda cell: [int(cell[y, x, 0]) for y in (0, -1) for x in (0, -1)]
    assert corners(first) == [0, 64, 64, 255] and corners(second) == [191, 255, 255, 0]
    below = picture[side + 1 :]
    assert below.shape[0] == show._LINE and below[:, :side].min() < 128 and not (below[:, :side] == 0).all()
    # Another word, another picture of it.
    assert (below[:, :side] != below[:, side + 1 : 2 * side + 1]).any()


@pytest.mark.quick
def test_bytes_stay_as_they_are_and_rows_are_filled_up_with_white() -> None:
    batch = {'image': np.full((3, 96, 96, 3), 40, np.uint8), 'index': np.arange(3)}
    picture = show.picture_of(batch, across=2)
    height = show._SIDE + 1 + show._LINE
    assert picture.shape == (2 * height, 2 * 97 - 1, 3)
    assert (picture[:96, :96] == 40).all() and (picture[height:, 97:] == 255).all()


@pytest.mark.quick
def test_views_stand_below_each_other() -> None:
    batch = {'view0': images(2), 'view1': images(3), 'index': np.arange(1)}
    assert show.picture_of(batch, across=1).shape == (2 * (show._SIDE + 1) + show._LINE, show._SIDE, 3)


@pytest.mark.quick
@pytest.mark.parametrize(
    'columns, said',
    [
        ({'label': np.array([2, 0], np.int32)}, ['c', 'a']),
        ({'label': np.array([1.5, 2.0], np.float32)}, ['1.5', '2']),
        ({'label': np.array([-1, 1], np.int32)}, ['-1', 'b']),
        # Without and with label smoothing of 0.1 over three classes.
        ({'target': np.array([[0, 1, 0], [0.7, 0, 0.3]])}, ['b', 'a 0.70, c 0.30']),
        ({'target': np.array([[0.033, 0.934, 0.033], [0.664, 0.033, 0.303]])}, ['b', 'a 0.69, c 0.31']),
        ({'index': np.array([7, 9])}, ['example 7', 'example 9']),
    ],
)
def test_captions(columns: dict[str, np.ndarray], said: list[str]) -> None:
    assert show.captions(columns, ('a', 'b', 'c')) == said


@pytest.mark.quick
def test_a_batch_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r'no images of one or three channels, but words \(4, 9\)'):
        show.picture_of({'words': np.zeros((4, 9), np.int32)})
    with pytest.raises(ValueError, match='has stages'):
        show.show_batch(toys.staged(), pathlib.Path('batch.png'))


def test_what_is_shown_is_what_the_first_step_gets(monkeypatch) -> None:
    """The batch that goes into the loss of step 0, seen through the step itself."""
    transforms = [
        {'fn': 'methods.augment:Normalize', 'mean': (0.5,), 'std': (0.5,)},
        {'fn': 'methods.augment:Mix', 'num_classes': None, 'mixup_alpha': 0.8, 'cutmix_alpha': 1.0},
    ]
    run = read_run(toys.config(train_transforms=transforms, seed=5).to_dict())[0]
    shown = show.first_batch(run)
    seen = {}

    def keep(task, v, batch, *rest):
        seen.update(batch)
        raise StopIteration

    monkeypatch.setattr('longview.methods.task._gradients', keep)
    step = make_step(run.task, optax.identity(), transform=chain(run.train_transforms))
    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batch = next(run.data.train(whole, run.batch_size, run.seed))
    state = TrainState(jnp.int32(0), Variables({}, {}, {}), (), {}, jnp.int32(-1))
    with pytest.raises(StopIteration):
        step(state, batch, jax.random.key(run.seed))
    assert {'image', 'target'} <= shown.keys()
    for name, array in shown.items():
        np.testing.assert_allclose(array, seen[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert shown['image'].std() > 0.1


def test_train_py_explains_and_shows_and_does_no_more(tmp_path) -> None:
    given = ('--config=tests/toys.py', '--config.seed=3', '--config.task.backbone.width=32', f'--workdir={tmp_path}')
    out, _ = runs.command('train.py', *given, '--explain', '--show_batch')
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines() if line.startswith('config.')}
    assert lines['config.seed'] == ['3', 'command line']
    # What an override leaves as it was is the preset's.
    assert lines['config.task.backbone.width'] == ['32', 'preset']
    assert lines['config.task.head.num_classes'] == ['10', 'data set']
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')] == ['pictures', 'pictures/batch.png']
    assert np.asarray(PIL.Image.open(tmp_path / 'pictures' / 'batch.png')).shape == (4 * 111, 8 * 97 - 1, 3)

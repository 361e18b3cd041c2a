"""Pictures of what is inside of a network: the command, what it is shown, and its mistakes."""

import argparse
import sys

import jax
import numpy as np
import PIL.Image
import pytest

from longview import pictures, train
from longview.configs import base, clip, deit_s, diffusion
from longview.engine import pictures as engine
from longview.runtime import plots
from tests import runs, toys

SMALL = {'width': 8, 'depth': 1, 'heads': 1}


def config() -> dict:
    """A run of a small transformer on digits."""
    made = toys.config(steps=1).to_dict()
    made['task']['backbone'] = base.backbone('vit_small_patch16_224', patch=2, image_size=8, **SMALL)
    made['eval_transforms'] = [{'fn': 'methods.augment:Normalize', 'mean': (0.5,), 'std': (0.5,)}]
    made['train_transforms'] = made['eval_transforms']
    return made


@pytest.fixture(scope='module', autouse=True)
def quickly():
    with runs.quickly():
        yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train.train(config(), workdir)
    return str(workdir)


def drawn(capsys, *arguments: str) -> tuple[str, tuple[int, int]]:
    """Returns what the command prints, and the size of the picture that it writes."""
    pictures.main(arguments)
    said = capsys.readouterr().out
    with PIL.Image.open(said.split('written: ')[1].strip()) as image:
        assert image.format == 'PNG'
        return said, image.size


def test_a_config_is_drawn_as_it_begins(capsys, tmp_path) -> None:
    changes = [f'--config.task.inner.backbone.{name}={value}' for name, value in SMALL.items()]
    said, _ = drawn(
        capsys,
        'signal',
        '--config=configs/deit_s.py:digits',
        *changes,
        '--examples=4',
        f'--png={tmp_path / "a" / "b.png"}',
    )
    assert [line.split()[0] for line in said.split('\n\n')[0].splitlines()[1:]] == [
        'stem', 'block00/mixer', 'block00/mlp', 'block00', 'norm'
    ]  # fmt: skip
    assert 'shown: 4 examples\n' in said


def test_a_run_is_drawn_into_its_workdir(capsys, workdir, tmp_path) -> None:
    said, size = drawn(capsys, 'filters', workdir)
    assert f'written: {workdir}/pictures/filters.png' in said and 'backbone/stem/kernel: 8 filters of 2x2x1' in said
    said, size = drawn(capsys, 'attention', workdir)
    assert 'backbone/block00/mixer  1 x 17 x 17' in said
    assert drawn(capsys, 'attention', workdir, '--rollout', '--layer=mixer')[1] == size
    said, _ = drawn(capsys, 'receptive_field', workdir, '--positive')
    assert said.count(' % of the area') == 4 and 'shown: 16 examples\n' in said
    with pytest.raises(SystemExit, match="has no network 'nothing', only 'network': leave --of out"):
        pictures.main(['filters', workdir, '--of=nothing'])
    # A picture of one's own is prepared as the run prepares its own.
    file = tmp_path / 'one.png'
    PIL.Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file)
    assert 'stem' in drawn(capsys, 'signal', workdir, f'--image={file}')[0]
    shown = engine.of_name(workdir, 16, picture=file)
    assert shown.columns[0].shape == (1, 8, 8, 1) and not shown.noise


def test_a_run_shows_its_own_data(workdir) -> None:
    begun, trained = engine.of_config(config(), 'it', 3), engine.of_name(workdir, 3)
    assert not begun.noise and not trained.noise
    np.testing.assert_array_equal(*jax.device_get([begun.columns[0], trained.columns[0]]))
    shapes = lambda subject: jax.tree.map(np.shape, subject.variables)
    assert shapes(begun) == shapes(trained) and begun.module == trained.module
    # One step has been made from the same seed.
    kernels = [subject.variables['params']['backbone']['stem']['kernel'] for subject in (begun, trained)]
    assert 0 < np.abs(np.subtract(*jax.device_get(kernels))).max() < 0.1


def test_copies_that_fill_a_batch_are_not_shown(capsys, workdir) -> None:
    shown = np.asarray(jax.device_get(engine.of_config(config(), 'it', 1000).columns[0]))
    assert len(shown) == 359 and (shown[-1] != shown[-2]).any()
    file = f'{workdir}/all.png'
    said, _ = drawn(capsys, 'receptive_field', workdir, '--examples=1000', f'--png={file}')
    assert 'shown: 359 examples, which are all there are\n' in said


def test_noise_takes_the_place_of_data_that_are_not_here() -> None:
    imagenet = deit_s.get_config().to_dict()
    imagenet['task']['backbone'] |= SMALL
    subject = engine.of_config(imagenet, 'it', 2)
    image = jax.device_get(subject.columns[0])
    assert subject.noise and image.shape == (2, 224, 224, 3)
    assert abs(image.mean()) < 0.01 and abs(image.std() - 1) < 0.01


def test_every_column_is_there() -> None:
    words, valid = engine.of_config(clip.get_config().to_dict(), 'it', 2, 'text').columns
    assert words.dtype == np.int32 and valid.dtype == bool
    run = diffusion.get_config().to_dict()['stages']['diffusion']
    run['task'] = run['task']['inner']  # without the judge, which another stage trains
    denoiser = engine.of_config(run, 'it', 2)
    assert [column.shape[0] for column in denoiser.columns] == [2, 2]
    assert engine.of_name('gla_test', 2).columns[0].dtype == np.int32


@pytest.mark.quick
def test_a_notebook_shows_a_figure() -> None:
    figure = plots.by_depth(['a', 'b'], {'scale': {'stream': {0: 1.0, 1: 0.0}}}, 'a title')
    assert figure._repr_png_() == plots.png(figure) and figure._repr_png_()[1:4] == b'PNG'
    assert plots.tiles(np.zeros((5, 2, 3, 1))).axes[0].images[0].get_array().shape == (6, 12, 3)
    assert len(plots.maps({'a': np.ones((2, 3, 3)), 'b': np.ones((1, 2, 2))}, np.zeros((4, 4, 1))).axes) == 6


@pytest.mark.quick
def test_without_matplotlib_one_sentence_says_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ImportError, match='matplotlib, which is not installed: pip install matplotlib'):
        plots.tiles(np.zeros((1, 2, 2, 3)))


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, words',
    [
        (['signals', 'vit_test'], "invalid choice: 'signals'"),
        (['signal'], 'one network is drawn: give --config'),
        (['signal', 'vit_test', '--config=configs/deit_s.py:digits'], 'one network is drawn'),
        (['signal', 'vit_tset'], "neither the workdir of a run nor a variant of the zoo; did you mean 'vit_test'?"),
        (['signal', 'vit_test', '--examples=0'], '--examples=0 shows the network nothing'),
        (['signal', 'vit_test', '--size=0'], '--size=0 is no side'),
        (['signal', 'vit_test', '--size=18'], 'image 18x18 does not divide by patch 4'),
        (['signal', 'vit_test', '--layers=2'], 'there is no flag --layers=2'),
        (['signal', 'vit_test', '--config.seed=2'], 'there is no flag --config.seed=2'),
        (
            ['signal', '--config=configs/deit_s.py:digits', '--config.sead=2'],
            "config has no 'sead'; did you mean 'seed'?",
        ),
        (['signal', '--config=configs/deit_s.py:digit'], "did you mean 'digits'"),
        (['signal', '--config=configs/deit_s.py:digits', '--weights=published'], '--weights is for runs and variants'),
        (['signal', '--config=configs/clip.py', '--of=it'], 'has the networks image, text: say which one'),
        (['signal', '--config=configs/teacher_student.py'], 'has stages: say which one, as --stage=teacher'),
        (['signal', '--config=configs/clip.py', '--stage=it'], "has no stages, and 'it' is asked for"),
        (['signal', 'vit_test', '--stage=it'], '--stage=it is of a config'),
        (
            ['signal', 'vit_test', '--rollout'],
            '--rollout is for attention, and the picture is signal: leave it out',
        ),
        (['attention', 'vit_test', '--positive'], '--positive is for receptive_field, and'),
        (['signal', 'vit_test', '--layer=nonsense'], '--layer=nonsense is for receptive_field, filters, attention'),
        (['filters', 'vit_test', '--image=cat.jpg'], '--image=cat.jpg is for signal, receptive_field, attention'),
        (['filters', 'vit_test', '--size=3'], '--size=3 is for signal'),
        (['attention', 'vit_test', '--examples=3'], '--examples=3 is for signal, receptive_field, and the picture is'),
        (['signal', 'vit_test', '--image=cat.jpg', '--size=3'], '--size=3 is for what a network is shown in the place'),
        (['signal', 'vit_test', '--image=cat.jpg', '--examples=3'], '--image=cat.jpg is one: leave one of the two out'),
        (['signal', 'vit_test', '--of=text'], '--of=text is for configs and runs, and vit_test is a variant'),
        (['attention', 'vit_test', '--image=cat.jpg'], 'vit_test has no weights by itself'),
        (['attention', 'resnet_test'], 'no layer of ResNet is attention by softmax'),
        (['attention', 'vit_test', '--layer=block07/mixer'], "is no attention layer; did you mean 'backbone/block0"),
        (['attention', 'vit_test', '--layer=mixer'], '--layer=mixer is the end of 2 paths, and one attention layer is'),
        (['attention', 'vit_test', '--layer=mixer'], 'more of one of backbone/block00/mixer, backbone/block01/mixer.'),
        (['filters', 'vit_test', '--layer=conv'], '--layer=conv: the network has no depthwise convolution'),
        (['filters', 'gla_test'], 'GLA has no convolution or patch embedding'),
        (['receptive_field', 'gla_test'], 'GLA reads words, and a receptive field is of pixels'),
        (['receptive_field', 's4d_test'], 'is shown an array of shape'),
        (['receptive_field', 'vit_test', '--layer=stage0'], "gives no 'stage0', but"),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_sentence(arguments, words, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        pictures.main(arguments)
    assert str(end.value.code).startswith('error: ') and '\n' not in str(end.value.code)
    assert words in str(end.value.code)
    assert not list(tmp_path.iterdir())


@pytest.mark.quick
def test_a_whole_path_is_the_layer_though_another_one_ends_so() -> None:
    layers = {'teacher/block00': np.zeros(1), 'block00': np.ones(1)}
    assert pictures._layer(layers, 'block00', 'attention layer') == ('block00', layers['block00'])


@pytest.mark.quick
@pytest.mark.parametrize(
    'layers, heads, words',
    [
        (2, 3, ''),
        (3, 3, ', the first 2 layers drawn'),
        (1, 4, ', the first 3 heads drawn'),
        (4, 5, ', the first 2 layers and the first 3 heads drawn'),
    ],
)
def test_what_is_not_drawn_of_attention_is_said(layers: int, heads: int, words: str, monkeypatch) -> None:
    found = {f'block{n:02d}': np.full((1, heads, 4, 4), 0.25, np.float32) for n in range(layers)}
    monkeypatch.setattr(pictures, '_LAYERS', 2)
    monkeypatch.setattr(pictures, '_HEADS', 3)
    monkeypatch.setattr(pictures.attention_maps, 'attention_maps', lambda *_: found)
    subject = engine.Subject('it', None, {}, (np.zeros((1, 2, 2, 3)),), False)
    figure, said = pictures._attention(subject, argparse.Namespace(layer=None, rollout=False))
    assert figure.get_suptitle() == f'it: attention{words}' and said.endswith(f'{heads} x 4 x 4{words}')
    assert len(figure.axes) == min(layers, 2) * (1 + min(heads, 3))


@pytest.mark.quick
@pytest.mark.parametrize('count, words', [(256, ''), (257, ', the first 256 drawn')])
def test_what_is_not_drawn_of_filters_is_said(count: int, words: str, monkeypatch) -> None:
    monkeypatch.setattr(pictures.filters, 'first_filters', lambda *_: ('stem', np.ones((count, 2, 2, 3))))
    subject = engine.Subject('it', None, {'params': {}}, (), False)
    figure, said = pictures._filters(subject, argparse.Namespace(layer=None))
    assert figure.get_suptitle() == f'it: stem{words}' and said == f'stem: {count} filters of 2x2x3{words}'


def test_a_workdir_without_a_run_is_named(tmp_path) -> None:
    with pytest.raises(SystemExit, match='holds no run'):
        pictures.main(['signal', str(tmp_path)])

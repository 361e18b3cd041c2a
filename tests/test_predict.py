"""Networks that answer for pictures: how these are prepared, what is answered, and the command."""

import dataclasses
import json
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import longview
from longview import modelzoo, predict
from longview.engine.loading import load
from longview.engine.predictor import Predictor, SquashCrop
from longview.methods.augment import Normalize
from longview.methods.ssl.views import Crop, Views
from longview.methods.task import chain
from longview.modelzoo import published, weights
from longview.modelzoo.published import Preprocessing, Weights
from longview.runtime.checkpoint import Checkpoints
from longview.runtime.nodes import node_of
from longview.runtime.workdir import write_interface
from tests import toys
from tests.modelzoo.tiny import filled, jit

NORMALIZE = {'fn': 'methods.augment:Normalize', 'mean': [0.5], 'std': [0.25]}
CENTER = {'fn': 'data.images:CenterCrop', 'fraction': 0.8, 'interpolation': 'bilinear'}
NAMES = ('ant', 'bee', 'cat')
# 4 x 4 pixels of `picture`, as timm 1.0.31 prepares it on Pillow 13.0.0.
TIMM = {
    'center': """
        122 124 128  141 123 128  118 142 139  129 113 116
        141 130 110  146 136 127  138 124 139   99 128 115
        116 122 133  116 142 135  131  97 165  131 116 132
        132 124 136  108 112 100  119 127 123  107 111 121""",
    'squash': """
        119 123 127  137 121 127  122 133 140  132 117 120
        141 132 115  142 138 128  133 136 136  104 125 106
        128 127 116  138 130 136  136 100 154  119 118 134
        119 120 140  107 140 125  125 112 153  126 120 126""",
}
SAID = {
    'center': Preprocessing(4, 0.9, 'center', 'bicubic', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'squash': Preprocessing(4, 0.7, 'squash', 'bilinear', (0.5,), (0.25,)),
}


def picture(height: int = 12, width: int = 17) -> np.ndarray:
    y, x, c = np.ogrid[:height, :width, :3]
    return ((y * 37 + x * 59 + c * 83 + y * x * 11) % 256).astype(np.uint8)


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made-up weights of `convnext_test`, with 3 classes."""
    path = tmp_path_factory.mktemp('weights') / 'convnext.safetensors'
    model = modelzoo.create_model('convnext_test', 3)
    weights.save(model, filled(model, jnp.zeros((1, 16, 16, 3))), path)
    return str(path)


def run(workdir: pathlib.Path, *names: str, interface: bool = True) -> pathlib.Path:
    """Makes a workdir as a run on digits leaves it, with networks of these names in its best checkpoint."""
    workdir.mkdir()
    config = toys.config(eval_transforms=[NORMALIZE]).to_dict()
    config['data']['eval_crop'] = CENTER
    (workdir / 'config.json').write_text(json.dumps(config))
    if interface:
        column = {'image': jax.ShapeDtypeStruct((1, 6, 8, 1), np.uint8)}
        write_interface(workdir, column, NAMES)
    model = modelzoo.create_model('wrn_test', 3)
    if names:
        checkpoints = Checkpoints(workdir)
        variables = filled(model, jnp.zeros((1, 8, 8, 1)))
        checkpoints.save_best(4, None, dict.fromkeys(names, variables), dict.fromkeys(names, node_of(model)))
        checkpoints.close()
    return workdir


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return run(tmp_path_factory.mktemp('runs') / 'one', 'network')


@pytest.mark.quick
@pytest.mark.parametrize('mode', TIMM)
@pytest.mark.parametrize('kind', ['array', 'pillow', 'file'])
def test_a_picture_is_prepared_as_timm_does_it(mode, kind, file, tmp_path):
    predictor = load('convnext_test', file, preprocessing=SAID[mode])
    given: Any = picture()
    if kind != 'array':
        given = Image.fromarray(given)
    if kind == 'file':
        given.save(tmp_path / 'picture.png')
        given = tmp_path / 'picture.png'
    expected = np.array(TIMM[mode].split(), np.float64).reshape(4, 4, 3) / 255
    expected = (expected - SAID[mode].mean) / SAID[mode].std
    np.testing.assert_allclose(predictor.preprocess(given), expected, atol=1e-6)


@pytest.mark.quick
def test_a_variant_has_the_preprocessing_of_its_published_weights(file, monkeypatch):
    row = Weights('convnext_test', 'owner/name', '', 'mit', 3, None, SAID['squash'])
    monkeypatch.setattr(published, 'table', lambda: {'convnext_test': row})
    predictor = load('convnext_test', file)
    assert predictor.size == (4, 4) and predictor.crop == SquashCrop(0.7, 'bilinear')
    assert predictor.transform == Normalize((0.5,), (0.25,)) and predictor.classes is None
    monkeypatch.setattr(published, 'imagenet_classes', lambda: NAMES)
    assert load('convnext_test', file).classes == NAMES
    assert load('convnext_test', file, features_only=True).classes is None


@pytest.mark.quick
def test_the_size_is_the_network_s_own_where_it_has_one(tmp_path):
    model = modelzoo.create_model('vit_test', 3)
    weights.save(model, filled(model, jnp.zeros((1, 16, 16, 3))), tmp_path / 'vit.safetensors')
    assert load('vit_test', tmp_path / 'vit.safetensors').size == (16, 16)
    assert load('vit_test', tmp_path / 'vit.safetensors', image_size=(16, 24)).size == (16, 24)


def test_classes_come_with_their_probabilities_the_likeliest_first(file):
    network = longview.load('convnext_test', file, preprocessing=Preprocessing(size=16))
    one, two = network.classify([picture(), picture(20, 9)])
    batch = jnp.stack([jnp.asarray(network.preprocess(each)) for each in (picture(), picture(20, 9))])
    logits = jit(network.module.apply)(network.variables, batch)['logits']
    for found, probabilities in zip((one, two), np.asarray(jax.nn.softmax(logits))):
        assert [number for number, _ in found] == list(np.argsort(-probabilities))
        np.testing.assert_allclose([share for _, share in found], np.sort(probabilities)[::-1], rtol=1e-5)
    alone = network.classify(Image.fromarray(picture()))
    np.testing.assert_allclose([share for _, share in alone], [share for _, share in one], rtol=1e-5)


def test_features_of_one_picture_and_of_several(file):
    network = load('convnext_test', file, preprocessing=Preprocessing(size=16))
    several, one = network.features([picture(), picture(20, 9)]), network.features(picture())
    assert several['pooled'].shape == (2, 32) and one['pooled'].shape == (32,)
    np.testing.assert_allclose(several['pooled'][0], one['pooled'], rtol=1e-5)
    stages = load('convnext_test', file, features_only=True, preprocessing=Preprocessing(size=16))
    chex.assert_trees_all_close(stages.features(picture()), [one['stage0'], one['stage1']], rtol=1e-5)
    with pytest.raises(ValueError, match='Stages has no classifier: use features'):
        stages.classify(picture())


def test_a_run_prepares_pictures_and_names_classes_as_its_evaluation(workdir):
    network = load(workdir)
    gray = np.asarray(Image.fromarray(picture()).convert('L'))
    # The shorter side, of which the crop needs more, becomes int(6 / 0.8).
    resized = np.asarray(Image.fromarray(gray).resize((9, 7), Image.Resampling.BILINEAR))
    expected = (resized[0:6, 0:8, None] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(network.preprocess(Image.fromarray(picture())), expected, atol=1e-6)
    found = network.classify(Image.fromarray(picture()))
    assert {name for name, _ in found} == set(NAMES)
    logits = jit(network.module.apply)(network.variables, jnp.asarray(expected[None], jnp.float32))['logits'][0]
    assert found[0][0] == NAMES[int(np.argmax(logits))]


def test_a_run_that_is_evaluated_on_random_views_prepares_the_picture_without_them(workdir):
    network = load(workdir)
    views = Views([[Crop((4, 4))], [Crop((4, 4))]])
    drawing = dataclasses.replace(network, transform=chain([views, network.transform]))
    np.testing.assert_array_equal(*(each.preprocess(Image.fromarray(picture())) for each in (drawing, network)))


def test_a_run_is_also_the_weights_of_its_variant(workdir):
    assert load('wrn_test', workdir).classes == list(NAMES)
    with pytest.raises(ValueError, match=r"is no ConvNeXt, and convnext_test is one: .* longview.load\('"):
        load('convnext_test', workdir)


def test_a_run_without_a_description_of_its_data_asks_the_data(tmp_path):
    network = load(run(tmp_path / 'old', 'network', interface=False))
    assert (network.size, network.channels) == ((8, 8), 1)
    assert network.classes == tuple(map(str, range(10)))


def test_of_several_networks_one_is_named(tmp_path):
    folder = run(tmp_path / 'two', 'image', 'sketch')
    with pytest.raises(ValueError, match="has the networks image, sketch: say which one, as network='image'"):
        load(folder)
    assert isinstance(load(folder, network='sketch'), Predictor)


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, error, words',
    [
        (('vit_test',), ValueError, "vit_test has no weights by itself: give a file of them, 'published', or"),
        (('vit_tset', 'x.npz'), ValueError, "there is no model 'vit_tset': did you mean vit_test"),
        (('runs/nowhere',), FileNotFoundError, 'runs/nowhere is neither the workdir of a run nor a variant of the zoo'),
        (('mamba_test', 'x.npz'), ValueError, 'mamba_test reads words, and a picture is an image'),
        (('.',), FileNotFoundError, r'\. holds no run \(there is no config.json\)'),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        load(*arguments)


@pytest.mark.quick
def test_what_a_run_has_itself_is_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match='features_only is for a variant of the zoo, and .* is a run: leave it out'):
        load(workdir, features_only=True)
    with pytest.raises(FileNotFoundError, match='best holds no checkpoint: train that run first'):
        load(run(tmp_path / 'begun'))


@pytest.mark.quick
def test_what_is_no_picture_is_said(file, tmp_path):
    network = load('convnext_test', file, preprocessing=Preprocessing(size=16))
    with pytest.raises(ValueError, match=r'a picture is float32 of the shape \(4, 4, 3\): give uint8'):
        network.preprocess(np.zeros((4, 4, 3), np.float32))
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'text.jpg is no image that can be read \(it is none of BMP, .*give an image'):
        network.preprocess(tmp_path / 'text.jpg')


def test_the_command_prints_the_likeliest_classes_of_each_image(workdir, tmp_path, capsys):
    images = [str(tmp_path / f'{name}.png') for name in 'ab']
    for path, shape in zip(images, ((12, 17), (9, 9))):
        Image.fromarray(picture(*shape)).save(path)
    predict.main([str(workdir), *images, '--top=2'])
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == images and len(lines) == 6
    predict.main([str(workdir), *images, '--top=2', '--json'])
    found = json.loads(capsys.readouterr().out)
    for path, printed in zip(images, (lines[1:3], lines[4:6])):
        assert [f'  {share:.4f}  {name}' for name, share in found[path]] == printed


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, words',
    [
        (('{run}', '{run}/config.json'), r'config.json is no image that can be read'),
        (('{run}', 'lost.png'), r'lost.png is no image that can be read'),
        (('vit_test', 'x.png'), 'vit_test has no weights by itself'),
        (('{run}', 'x.png', '--top=0'), '--top=0 shows no class'),
        (('{run}',), 'the following arguments are required: IMAGE'),
    ],
)
def test_mistakes_end_the_command_in_one_sentence(arguments, words, workdir):
    with pytest.raises(SystemExit, match=rf'^error: .*{words}.*\(--\w+ shows \w+\.\)$'):
        predict.main([argument.format(run=workdir) for argument in arguments])


@pytest.mark.parametrize('label', [[[], 'float32'], [[3], 'bool']], ids=['a number', 'several labels'])
def test_logits_of_other_labels_are_no_probabilities(label, tmp_path):
    workdir = run(tmp_path / 'run', 'network')
    file = workdir / 'interface.json'
    said = json.loads(file.read_text())
    said['columns']['label'] = label
    file.write_text(json.dumps(said))
    with pytest.raises(ValueError, match="several labels an image, or on numbers, .*: use features.picture..'logits'."):
        load(workdir).classify(np.zeros((8, 8, 3), np.uint8))

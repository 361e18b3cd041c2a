"""The table of published weights, and models that are made of it: whole ones, and their stages alone."""

import sys
import types
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import modelzoo
from longview.data.geometry import pair
from longview.modelzoo import published, weights
from longview.modelzoo.published import Preprocessing, Weights
from tests.modelzoo.tiny import filled, images, jit

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
LICENCES = {'apache-2.0', 'bsd-3-clause', 'cc-by-nc-4.0', 'mit', 'not stated'}


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Made-up weights of `convnext_test`, with 5 classes."""
    path = tmp_path_factory.mktemp('weights') / 'convnext.safetensors'
    model = modelzoo.create_model('convnext_test', 5)
    weights.save(model, filled(model, IMAGES), path)
    return str(path)


@pytest.mark.quick
def test_every_row_is_of_a_variant_and_its_names_can_be_read():
    table, names = published.table(), modelzoo.list_models()
    assert len(table) == 269 and list(table) == [name for name in names if name in table]
    for name, row in table.items():
        family, backbone = modelzoo.find(name)
        assert family.NAMES[type(backbone).__name__]
        assert '://' in row.source or row.source.count('/') == 1
        assert row.licence in LICENCES


@pytest.mark.quick
def test_every_row_prepares_images_as_its_network_reads_them():
    read_images = set(images())
    for name, row in published.table().items():
        assert (row.preprocessing is not None) == (row.classes is not None) == (name in read_images), name
        if row.preprocessing is None:
            continue
        size, fraction, mode, interpolation, mean, std = row.preprocessing
        assert pair(getattr(modelzoo.find(name)[1], 'image_size', size)) == (size, size), name
        assert 0.8 < fraction <= 1 and mode in ('center', 'squash') and interpolation in ('bicubic', 'bilinear')
        assert len(mean) == len(std) in (1, 3) and min(std) > 0.2
        # Weights for other classes than ImageNet-1k's have no figure there.
        assert row.top1 is None or (row.classes == 1000 and 68 < row.top1 < 90), name


@pytest.mark.parametrize(
    'name',
    ['convnext_tiny', 'convnextv2_atto', 'vit_base_patch16_224', 'deit_tiny_patch16_224', 'swinv2_tiny_window8_256'],
)
def test_a_figure_is_near_the_paper_s(name):
    paper = modelzoo.find(name)[0].PUBLISHED[name].top1
    assert paper is None or abs(published.table()[name].top1 - paper) < 0.2


@pytest.mark.quick
def test_the_classes_of_imagenet_are_in_their_order():
    classes = published.imagenet_classes()
    assert len(set(classes)) == len(classes) == 1000
    assert [classes[number] for number in (0, 281, 999)] == ['tench', 'tabby', 'toilet tissue']


def row(**fields: str) -> Weights:
    told = {'source': 'owner/name', 'file': 'tiny.safetensors', 'licence': 'mit', 'classes': 5, 'top1': None}
    return Weights(**{'variant': 'convnext_test', 'preprocessing': Preprocessing(16), **told, **fields})


def test_published_weights_are_fetched_from_the_hub_and_fill_the_model(file, monkeypatch):
    asked = []
    hub = types.SimpleNamespace(hf_hub_download=lambda *names: asked.append(names) or file)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    monkeypatch.setattr(published, 'table', lambda: {'convnext_test': row()})
    model = modelzoo.create_model('convnext_test', weights='published')
    assert asked == [('owner/name', 'tiny.safetensors')] and model.head.num_classes == 5
    wanted = filled(modelzoo.create_model('convnext_test', 5), IMAGES)
    chex.assert_trees_all_equal(model.init(jax.random.key(0), IMAGES), wanted)


@pytest.mark.quick
@pytest.mark.parametrize(
    'name, hub, error, words',
    [
        ('fixup_resnet20', None, FileNotFoundError, "no published weights of 'fixup_resnet20' are known: give a file"),
        ('hornet_tiny_gf', None, FileNotFoundError, 'hornet_tiny_gf are no file of the hub: download https://cloud'),
        (
            'vig_tiny',
            None,
            ImportError,
            "'hustvl/ViG' is no file here, and fetching vig_t_77p2acc.pth of it from the hub needs huggingface_hub",
        ),
        ('resnet18', None, ImportError, "'timm/resnet18.tv_in1k' is no file here"),
        ('vig_tiny', OSError('offline'), FileNotFoundError, r'cannot get vig_t_77p2acc.pth .* \(OSError: offline\)'),
    ],
)
def test_what_cannot_be_fetched_is_said(name, hub, error, words, monkeypatch):
    def fail(*names: str) -> None:
        raise hub

    module = None if hub is None else types.SimpleNamespace(hf_hub_download=fail)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', module)
    with pytest.raises(error, match=words):
        modelzoo.create_model(name, weights='published')


def test_stored_pixels_are_refused_by_published_weights(file):
    model = modelzoo.create_model('convnext_test', weights=file)
    variables = model.init(jax.random.key(0), IMAGES)
    pixels = jnp.zeros(IMAGES.shape, jnp.uint8)
    with pytest.raises(ValueError, match='the images are uint8, pixels as they are stored, .* use longview.load'):
        jax.eval_shape(model.apply, variables, pixels)
    with pytest.raises(ValueError, match='the images are uint8'):
        jax.eval_shape(modelzoo.create_model('convnext_test', weights=file, features_only=True).apply, {}, pixels)
    assert jax.eval_shape(model.apply, variables, IMAGES)['logits'].shape == (2, 5)


def test_stages_are_those_of_the_whole_network(file):
    stages = modelzoo.create_model('convnext_test', weights=file, features_only=True)
    whole = modelzoo.create_model('convnext_test', weights=file)
    assert (stages.strides, stages.channels) == (whole.backbone.strides, whole.backbone.channels)
    variables = whole.init(jax.random.key(0), IMAGES)
    own = stages.init(jax.random.key(0), IMAGES)
    chex.assert_trees_all_equal(own, {'params': {'backbone': variables['params']['backbone']}})
    both = jit(lambda v, x: (stages.apply({'params': {'backbone': v['params']['backbone']}}, x), whole.apply(v, x)))
    maps, features = jax.device_get(both(variables, IMAGES))
    assert [each.shape[1:] for each in maps] == [
        (16 // stride, 16 // stride, channels) for stride, channels in zip(stages.strides, stages.channels)
    ]
    chex.assert_trees_all_equal(maps, [features[f'stage{index}'] for index in range(len(maps))])


def test_stages_without_weights_start_from_random_values():
    stages = modelzoo.create_model('resnet_test', features_only=True)
    init = jit(lambda key: stages.init(key, IMAGES))
    first, second = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 1))
    assert set(first['params']) == {'backbone'} and set(first['batch_stats']) == {'backbone'}
    kernels = [each['params']['backbone']['stem']['conv']['kernel'] for each in (first, second)]
    assert not np.array_equal(*kernels)


class Outer(nn.Module):
    """A module with stages inside."""

    stages: nn.Module

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Returns the stages' maps."""
        return self.stages(x)


@pytest.mark.quick
def test_stages_are_refused_where_there_are_none(file):
    with pytest.raises(TypeError, match='features_only needs a PyramidBackbone .* and ViT has embed'):
        modelzoo.create_model('vit_test', features_only=True)
    with pytest.raises(ValueError, match='features_only leaves the classifier out: leave num_classes=10 out'):
        modelzoo.create_model('convnext_test', 10, features_only=True)
    inside = Outer(modelzoo.create_model('convnext_test', weights=file, features_only=True))
    with pytest.raises(ValueError, match='Stages with published weights stands inside another module'):
        jax.eval_shape(inside.init, jax.random.key(0), IMAGES)

"""Published weights: both ways without loss or left-overs, and errors that list what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo import weight_files, weight_names, weight_torch, weights
from longview.modelzoo.heads import Classifier
from longview.modelzoo.layers.mixers import hyena
from longview.modelzoo.sequence import sgconv
from tests import goldens
from tests.modelzoo.tiny import deep_ones_heavy, filled, images, jit, shapes


def names_of(name: str) -> weights.Names:
    family, backbone = modelzoo.find(name)
    return family.NAMES[type(backbone).__name__]


def random_like(like: dict) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)


@pytest.mark.parametrize('name', deep_ones_heavy(modelzoo.list_models()))
def test_every_parameter_has_a_published_name_and_returns_from_it(name):
    flat = traverse_util.flatten_dict(shapes(name).params, sep='/')
    published = {weights._translate(names_of(name), path, 1): path for path in flat}
    assert len(published) == len(flat) and None not in published
    assert all(weights._translate(names_of(name), there, 0) == path for there, path in published.items())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def variables_of(name: str, **overrides) -> tuple[Classifier, dict]:
    """Returns a tiny model and variables without structure, batch statistics included."""
    model = modelzoo.create_model(name, 7, **overrides)
    return model, filled(model, jnp.zeros((1, 16, 16, 3)))


def same_bits(one: dict, other: dict) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize('name', deep_ones_heavy(images('*_test')))
def test_round_trip_through_a_file_keeps_every_bit(name, tmp_path):
    model, variables = variables_of(name)
    weights.save(model, variables, tmp_path / 'one.safetensors')
    empty = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    loaded = weights.load(model, empty, tmp_path / 'one.safetensors')
    same_bits(loaded, variables)
    weights.save(model, loaded, tmp_path / 'other.safetensors')
    assert (tmp_path / 'one.safetensors').read_bytes() == (tmp_path / 'other.safetensors').read_bytes()


def test_layouts_are_torch_s():
    params = random_like(shapes('vig_test').params)
    published = weights.to_published(names_of('vig_test'), params)
    stem, head = params['backbone']['stem']['conv0']['kernel'], params['head']['kernel']
    np.testing.assert_array_equal(published['patch_embed.proj.0.weight'], np.transpose(stem, (3, 2, 0, 1)))
    np.testing.assert_array_equal(published['head.weight'], head.T)
    assert published['blocks.1.attn.in_proj.0.weight'].shape == (32, 1, 3, 3)
    assert published['pos_embed'].shape == (1, 16, 32)


def test_half_precision_weights_become_the_parameters_type():
    names = [('w', 'kernel')]
    loaded = weights.load_published(
        names, {'kernel': jax.ShapeDtypeStruct((2, 3), jnp.float32)}, {'w': np.ones((3, 2), np.float16)}
    )
    assert loaded['kernel'].dtype == np.float32 and loaded['kernel'].shape == (2, 3)


def test_a_number_may_stand_in_a_name_twice():
    names = [
        ('blocks.{i}.sub.{i}.w', 'block{i:02d}/sub{i}/scale'),
        ('blocks.{i}.sub.{j}.w', 'block{i:02d}/sub{j}/bias'),
    ]
    assert weights._translate(names, 'blocks.3.sub.3.w', 0) == 'block03/sub3/scale'
    assert weights._translate(names, 'block03/sub3/scale', 1) == 'blocks.3.sub.3.w'
    assert weights._translate(names[:1], 'blocks.3.sub.4.w', 0) is None
    assert weights._translate(names, 'blocks.3.sub.4.w', 0) == 'block03/sub4/bias'


def test_what_does_not_fit_is_listed():
    names, wanted = names_of('vig_test'), shapes('vig_test').params
    published = weights.to_published(names, random_like(wanted))
    missing = {name: array for name, array in published.items() if name != 'norm.weight'}
    with pytest.raises(ValueError, match=r'1 missing: norm\.weight\. Check the variant and num_classes'):
        weights.load_published(names, wanted, missing)
    with pytest.raises(ValueError, match=r'2 extra: blocks\.7\.mlp_norm\.weight, fc\.weight'):
        weights.load_published(
            names,
            wanted,
            published | {'blocks.7.mlp_norm.weight': published['norm.weight'], 'fc.weight': published['norm.weight']},
        )
    with pytest.raises(ValueError, match=r'1 misshapen: head\.bias \(\(9,\), not \(1000,\)\)'):
        weights.load_published(names, wanted, published | {'head.bias': np.zeros(9, np.float32)})
    with pytest.raises(ValueError, match='1 extra: backbone/adapter/kernel'):
        weights.to_published(names, {'backbone': {'adapter': {'kernel': np.zeros((1, 1))}}})


def test_everything_that_does_not_fit_is_said_at_once_and_eight_names_of_a_kind():
    wanted = {'kernel': jax.ShapeDtypeStruct((2, 3), jnp.float32)} | {
        f'b{n}': jax.ShapeDtypeStruct((2,), jnp.float32) for n in range(10)
    }
    found = {f'x{n}': np.zeros(3, np.float32) for n in range(9)} | {'kernel': np.zeros((2, 2), np.float32)}
    extra, missing = (', '.join(f'{letter}{n}' for n in range(8)) for letter in 'xb')
    message = (
        rf'10 missing: {missing}, \.\.\.; 9 extra: {extra}, \.\.\.; 1 misshapen: kernel \(\(2, 2\), not \(2, 3\)\)'
    )
    with pytest.raises(ValueError, match=message):
        weights.load_published([('kernel', 'kernel')], wanted, found)


def test_a_first_kernel_for_colors_is_made_to_suit_other_channels_which_is_said(file, capsys):
    colors = variables_of('vit_test')[1]['params']['backbone']['stem']['kernel']
    wanted = {
        1: colors.sum(2, keepdims=True),
        2: colors[:, :, :2] * 1.5,
        4: np.concatenate([colors, colors[:, :, :1]], axis=2) * 0.75,
    }
    for channels, kernel in wanted.items():
        model = modelzoo.create_model('vit_test', weights=file)
        like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, channels)))
        loaded = model.load(like)['params']['backbone']
        np.testing.assert_allclose(loaded['stem']['kernel'], kernel, rtol=1e-6, atol=1e-7)
        said = f'note: patch_embed.proj.weight is for 3 channels, and is made to suit images of {channels}.'
        assert said in capsys.readouterr().out
    same_bits(
        model.load(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))),
        variables_of('vit_test')[1],
    )


@pytest.mark.parametrize('folder', [False, True])
def test_a_model_starts_from_averages_in_a_checkpoint_of_a_wrapped_network(tmp_path, monkeypatch, folder):
    model, variables = variables_of('vit_test')
    arrays = weights.to_published(names_of('vit_test'), variables['params'])
    wrapped = {f'_orig_mod.module.{name}': array for name, array in arrays.items()}
    found = weight_torch.StateDict(wrapped, 'state_dict_ema')
    monkeypatch.setattr(weight_torch, 'read', lambda path: found)
    monkeypatch.setattr(weight_torch, 'shapes', lambda path: {name: array.shape for name, array in wrapped.items()})
    path = tmp_path / 'model_best.pth.tar'
    path.write_bytes(b'')
    same_bits(start(weights=tmp_path if folder else path), variables)


def test_what_networks_compute_anew_is_passed_over():
    model, variables = variables_of('swinv2_test')
    published = weights.to_published(names_of('swinv2_test'), variables['params'])
    block, index = 'layers.0.blocks.1.attn.', np.zeros((9, 9), np.int64)
    buffers = {
        f'{block}relative_position_index': index,
        f'{block}relative_coords_table': index,
        'layers.0.blocks.1.attn_mask': index,
    }
    same_bits(weights.load(model, variables, published | buffers), variables)
    assert weight_names.our_path(names_of('resnet18'), 'bn1.num_batches_tracked') == ''


@pytest.mark.parametrize(
    'golden, names',
    [
        *(
            (name, None)
            for name in (
                'convit_tiny',
                'cvt_13',
                'inceptionnext_atto',
                'res2net50_26w_4s',
                'resnet18',
                'swinv2_tiny_window8_256',
                'unireplknet_a',
            )
        ),
        ('hyena_operator', hyena.NAMES),
        ('sgconv_layer', sgconv.MIXER_NAMES),
    ],
)
def test_what_torch_stores_is_ours_or_computed_anew(golden, names):
    golden = goldens.read(goldens.FOLDER / f'{golden}.json.gz')
    names = names or names_of(golden['name'])
    computed = [name for name, _, _ in golden['state'] if weight_names.our_path(names, name) == '']
    assert computed and not {name for name, _, kind in golden['state'] if kind != 'constant'} & {*computed}
    left = [name for name, _, _ in golden['state'] if name not in computed and not weights._translate(names, name, 0)]
    assert all(name.endswith('.k_bias') for name in left), left  # zeros that torch does not store


@pytest.mark.parametrize(
    'name, published',
    [
        ('swinv2_test', 'attn_mask'),
        ('swinv2_test', 'layers.0.blocks.1.mlp.attn_mask'),
        ('swinv2_test', 'bn.t'),
        ('vit_test', 'blocks.0.attn.rel_indices'),
        ('vit_test', 'norm.num_batches_tracked'),
        ('vit_test', 'deltas'),
    ],
)
def test_an_unknown_name_is_refused_whatever_it_ends_in(name, published):
    model, variables = variables_of(name)
    known = weights.to_published(names_of(name), weights.merge(variables))
    with pytest.raises(ValueError, match=f'1 extra: {published}'):
        weights.load(model, variables, known | {published: np.zeros((2, 3))})


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """The weights of a tiny network of seven classes."""
    path = tmp_path_factory.mktemp('weights') / 'w.safetensors'
    weights.save(*variables_of('vit_test'), path)
    return path


def start(*arguments, **options) -> dict:
    """Returns what the model's `init` gives."""
    model = modelzoo.create_model('vit_test', *arguments, **options)
    return jit(model.init)(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))


def test_a_model_with_weights_starts_from_them(file):
    model, variables = variables_of('vit_test')
    started = modelzoo.create_model('vit_test', weights=file)
    same_bits(start(weights=file), variables)
    x = noise(2, 16, 16, 3)
    sizes = jax.tree.map(jnp.shape, jax.eval_shape(started.init, jax.random.key(1), x))
    assert sizes == jax.tree.map(jnp.shape, variables)
    np.testing.assert_array_equal(jit(started.apply)(variables, x)['logits'], jit(model.apply)(variables, x)['logits'])


def test_features_and_variables_together_are_those_of_the_file(file):
    model, variables = variables_of('vit_test')
    x = noise(2, 16, 16, 3)
    started = modelzoo.create_model('vit_test', weights=file)
    features, found = jax.device_get(jit(started.init_with_output)(jax.random.key(1), x))
    same_bits(found, variables)
    np.testing.assert_allclose(features['logits'], jit(model.apply)(variables, x)['logits'], atol=1e-5)


def test_a_model_is_made_from_the_file_s_header_and_nothing_is_drawn_for_what_is_read(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(weight_files, 'read')
        started = modelzoo.create_model('vit_test', weights=file)
    assert started.head.num_classes == 7
    drawn, draw = [], jax.random.truncated_normal
    watch = lambda key, *rest: (drawn.append(key), draw(key, *rest))[1]
    monkeypatch.setattr(jax.random, 'truncated_normal', watch)
    same_bits(started.init(jax.random.key(1), jnp.zeros((1, 16, 16, 3))), variables_of('vit_test')[1])
    assert drawn and all(isinstance(key, jax.core.Tracer) for key in drawn), 'only shapes are needed'


def test_another_number_of_classes_gets_a_new_head(file):
    params = start(4, weights=file)['params']
    same_bits(params['backbone'], variables_of('vit_test')[1]['params']['backbone'])
    same_bits(params['head'], start(4)['params']['head'])
    assert params['head']['kernel'].shape == (32, 4)


def test_weights_without_a_head_need_a_number_of_classes(file, tmp_path):
    arrays = weight_files.read(file)
    weight_files.write(tmp_path / 'w.safetensors', {k: v for k, v in arrays.items() if not k.startswith('head.')})
    with pytest.raises(ValueError, match=r'2 missing: head\.bias, head\.weight'):
        start(weights=tmp_path / 'w.safetensors')
    params = start(4, weights=tmp_path / 'w.safetensors')['params']
    same_bits(params['backbone'], variables_of('vit_test')[1]['params']['backbone'])


@pytest.mark.parametrize('name', ['vit_test', 'convit_test', 'pvt_v1_test', 'moat_test'])
def test_tables_of_another_image_size_answer_as_if_resized_in_the_network(name):
    model, variables = variables_of(name)
    published = weights.to_published(names_of(name), weights.merge(variables))
    larger = modelzoo.create_model(name, 7, image_size=(24, 16))
    x = noise(2, 24, 16, 3)
    wanted = jax.eval_shape(larger.init, jax.random.key(0), x)
    loaded = weights.load(larger, wanted, published)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, variables)
    ours, theirs = (
        np.asarray(jit(network.apply)(values, x)['logits'])
        for network, values in ((larger, loaded), (model, variables))
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(theirs.std()))

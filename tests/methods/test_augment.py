"""Batch transforms: keyed by the example, true to their sampling rules, the same on any mesh."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from longview.methods.augment import MIX, Mix, Normalize, RandomErasing, RandomFlip, example_keys
from longview.methods.randaugment import RandAugment
from longview.methods.ssl.views import Crop
from tests.modelzoo import tiny

KEY = jax.random.key(7)
ROWS = np.array([11, 3, 3, 9, 0, 15, 1, 7])
COLLECTIVES = ('all-gather', 'all-to-all', 'collective-permute', 'all-reduce')


def make_batch(size: int, side: int = 16, channels: int = 3, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        'image': jnp.asarray(rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8)),
        'label': jnp.asarray(rng.integers(0, 10, size, dtype=np.int32)),
        'epoch': jnp.asarray(rng.integers(0, 5, size, dtype=np.int32)),
        'index': jnp.asarray(rng.permutation(max(1000, size))[:size].astype(np.int32)),
    }


def normalized(batch: dict) -> dict:
    return Normalize()(batch)


def augmented(batch: dict, key: jax.Array = KEY) -> dict[str, jax.Array]:
    """Returns the images of a batch after each transform of single examples."""
    return {
        'flip': RandomFlip()(batch, key)['image'],
        'rand_augment': RandAugment()(batch, key)['image'],
        'erase': RandomErasing(probability=0.7)(normalized(batch), key)['image'],
    }


def spread(batch: dict) -> dict[str, jax.Array]:
    """Puts a batch onto four devices along both axes that split one."""
    mesh = jax.make_mesh(
        (2, 2), ('data', 'fsdp'), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )
    return jax.device_put(batch, NamedSharding(mesh, P(('data', 'fsdp'))))


def compiled(function, batch: dict) -> tuple[dict, list[str]]:
    """Runs a function of a batch; returns what came out, and the collectives in the compiled program."""
    program = tiny.jit(function).lower(batch).compile()
    text = program.as_text()
    return jax.device_get(program(batch)), [name for name in COLLECTIVES if f' {name}(' in text]


@functools.cache
def alone() -> list[dict]:
    """Returns the images of 16 examples on one device: as they are, of another epoch, and with another key."""
    run, batch = tiny.jit(augmented), make_batch(16)
    later = batch | {'epoch': batch['epoch'] + 1}
    return jax.device_get([run(batch, KEY), run(later, KEY), run(batch, jax.random.key(8))])


@functools.cache
def on_a_mesh() -> tuple[dict, list[str]]:
    """Returns the images of some of these examples, in another order, and what the devices exchanged."""
    return compiled(augmented, spread({name: value[ROWS] for name, value in make_batch(16).items()}))


@pytest.mark.parametrize('name', ['flip', 'rand_augment', 'erase'])
def test_an_example_is_augmented_alike_in_any_batch_and_on_any_mesh(name):
    whole, other_epoch, other_key = (images[name] for images in alone())
    # Exact for integers; float kernels may be compiled otherwise for another shape.
    chex.assert_trees_all_close(on_a_mesh()[0][name], whole[ROWS], atol=2e-6)
    assert (other_epoch != whole).any(axis=(1, 2, 3)).mean() > 0.3
    assert (other_key != whole).any(axis=(1, 2, 3)).mean() > 0.3


def test_transforms_of_single_examples_gather_nothing():
    assert not on_a_mesh()[1]


def test_normalize_is_the_published_formula_and_checks_channels():
    batch = make_batch(4)
    transform = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2), dtype=jnp.bfloat16)
    got = transform(batch)['image']
    assert got.dtype == jnp.bfloat16
    want = (np.asarray(batch['image']) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.2]
    chex.assert_trees_all_close(np.asarray(got, np.float64), want, rtol=1e-2, atol=1e-2)
    chex.assert_trees_all_close(
        np.asarray(Normalize((0.5,), (0.5,))(batch)['image']),
        np.asarray(batch['image']) / np.float32(127.5) - 1,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match='2 means and 2 deviations for images of 3 channels; give 1 or 3'):
        Normalize((0.5, 0.5), (0.5, 0.5))(batch)


@pytest.mark.parametrize('dtype, white', [('uint8', 255), ('uint16', 65535), ('int16', 32767), ('float32', 255)])
def test_the_top_of_a_type_is_one_whatever_the_type(dtype, white):
    image = jnp.asarray([0, white], dtype).reshape(1, 1, 2, 1)
    got = Normalize((0.0,), (1.0,))({'image': image})['image']
    np.testing.assert_allclose(got.ravel(), [0, 1], rtol=1e-6)
    given = Normalize((0.0,), (1.0,), white=2.0)({'image': jnp.full((1, 1, 1, 1), 1.0)})['image']
    np.testing.assert_allclose(given.ravel(), [0.5])


def test_sixteen_bits_are_not_taken_for_eight():
    batch = make_batch(2)
    with pytest.raises(ValueError, match='RandAugment wants uint8 images and got uint16: list it before Normalize'):
        RandAugment()(batch | {'image': batch['image'].astype(jnp.uint16)}, jax.random.key(0))


def test_flip_mirrors_half_of_the_examples():
    batch = make_batch(4096, side=2)
    got = np.asarray(tiny.jit(RandomFlip())(batch, KEY)['image'])
    image = np.asarray(batch['image'])
    flipped = (got != image).any(axis=(1, 2, 3))
    chex.assert_trees_all_equal(got, np.where(flipped[:, None, None, None], image[:, :, ::-1], image))
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / math.sqrt(4096)


def reference_erasing(rng: np.random.Generator, side: int) -> float:
    """timm's rule, one image: the share of the area that is erased."""
    if rng.random() > 0.25:
        return 0.0
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * side * side
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width < side and height < side:
            return height * width / side**2
    return 0.0


def test_erasing_follows_the_published_sampling():
    count, side = 20_000, 24
    keys = jax.random.split(KEY, count)
    regions = np.asarray(tiny.jit(jax.vmap(lambda k: RandomErasing().region(k, side, side)))(keys))
    share = regions.mean(axis=(1, 2))
    rng = np.random.default_rng(0)
    want = np.array([reference_erasing(rng, side) for _ in range(count)])
    assert abs((share > 0).mean() - 0.25) < 0.012
    for moment in (1, 2):
        assert abs((share**moment).mean() - (want**moment).mean()) < 0.05 * (want**moment).mean()
    chex.assert_trees_all_close(
        np.quantile(share[share > 0], [0.05, 0.5, 0.95]),
        np.quantile(want[want > 0], [0.05, 0.5, 0.95]),
        atol=0.02,
    )
    # Every erased region is a full rectangle, and places are uniform: the mean mask is symmetric.
    area = regions.any(axis=2).sum(axis=1) * regions.any(axis=1).sum(axis=1)
    chex.assert_trees_all_equal(area, regions.sum(axis=(1, 2)))
    density = regions.mean(axis=0)
    chex.assert_trees_all_close(density, density[::-1, ::-1], atol=0.01)
    chex.assert_trees_all_close(density, density.T, atol=0.01)


def test_erasing_fills_with_unit_noise_in_every_pixel():
    batch = make_batch(256) | {'image': jnp.full((256, 16, 16, 3), 9.0)}
    got = np.asarray(tiny.jit(RandomErasing(probability=1.0))(batch, KEY)['image'])
    noise = got[got != 9.0]
    assert len(noise) > 10_000
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    erased = (got != 9.0).any(axis=-1)
    chex.assert_trees_all_equal(erased, (got != 9.0).all(axis=-1))
    assert len(np.unique(noise)) > 0.99 * len(noise)


MIXING = Mix(num_classes=10, label_smoothing=0.1)


def test_mix_pairs_each_row_with_the_one_opposite_on_any_mesh():
    batch = normalized(make_batch(8))

    def mixed(batch, key):
        first = {name: batch[name][:1] for name in ('epoch', 'index')}
        return MIXING(batch, key), MIXING.draw(example_keys(first, key, MIX)[0], 16, 16)

    apply, kinds = tiny.jit(mixed), set()
    image, flipped = np.asarray(batch['image']), np.asarray(batch['image'])[::-1]
    hard = np.full((8, 10), 0.01) + 0.9 * np.eye(10)[np.asarray(batch['label'])]
    for seed in range(6):
        got, (cut, lam) = jax.device_get(apply(batch, jax.random.key(seed)))
        kinds.add(bool(cut.any()))
        if cut.any():
            want = np.where(cut[None, ..., None], flipped, image)
            assert float(lam) == pytest.approx(1 - cut.mean())
        else:
            want = lam * image + (1 - lam) * flipped
        chex.assert_trees_all_close(got['image'], want, atol=1e-5)
        chex.assert_trees_all_close(got['target'], lam * hard + (1 - lam) * hard[::-1], atol=1e-6)
        chex.assert_trees_all_close(got['target'].sum(axis=1), np.ones(8), atol=1e-6)
    assert kinds == {True, False}
    found, collectives = compiled(lambda batch: MIXING(batch, jax.random.key(5)), spread(batch))
    chex.assert_trees_all_close(found, got, atol=2e-6)
    assert collectives  # its partner is on another device


def reference_rectangles(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """timm's rule for CutMix, one batch each: lambda after the correction."""
    cut = (side * np.sqrt(1 - rng.beta(1.0, 1.0, count))).astype(int)
    y, x = rng.integers(0, side, (2, count))
    top, bottom, left, right = np.clip([y - cut // 2, y + cut // 2, x - cut // 2, x + cut // 2], 0, side)
    return 1 - (bottom - top) * (right - left) / side**2


def test_mix_draws_follow_the_published_rules():
    count, side = 20_000, 20
    mix = Mix(num_classes=10)
    draw = tiny.jit(jax.vmap(lambda key: mix.draw(key, side, side)))
    cut, lam = map(np.asarray, draw(jax.random.split(KEY, count)))
    tenths = np.linspace(0.1, 0.9, 9)
    rng = np.random.default_rng(0)
    both = np.where(rng.random(count) < 0.5, reference_rectangles(rng, side, count), rng.beta(0.8, 0.8, count))
    chex.assert_trees_all_close(np.quantile(lam, tenths), np.quantile(both, tenths), atol=0.02)
    # lambda = 1 - 0 means a rectangle of no area, which a bare count of masks would miss.
    assert 0.42 < cut.any(axis=(1, 2)).mean() < 0.5

    only_mixup = Mix(num_classes=10, cutmix_alpha=0.0)
    draw = tiny.jit(jax.vmap(lambda key: only_mixup.draw(key, 4, 4)))
    cut, lam = map(np.asarray, draw(jax.random.split(KEY, 5000)))
    assert not cut.any()
    assert lam.std() == pytest.approx(1 / math.sqrt(4 * (2 * 0.8 + 1)), rel=0.05)
    assert Mix(num_classes=10, mixup_alpha=0.0)._cutmix_probability() == 1


def test_mistakes_are_answered_in_a_sentence():
    batch = make_batch(4)
    with pytest.raises(ValueError, match='Mix wants normalized images and got uint8: list it after Normalize'):
        Mix(num_classes=10)(batch, KEY)
    with pytest.raises(ValueError, match='RandomErasing wants normalized images and got uint8'):
        RandomErasing()(batch, KEY)
    with pytest.raises(ValueError, match='RandAugment wants uint8 images and got float32: list it before Normalize'):
        RandAugment()(normalized(batch), KEY)
    with pytest.raises(ValueError, match='mixup_alpha=0 and cutmix_alpha=0'):
        Mix(num_classes=10, mixup_alpha=0, cutmix_alpha=0)


@pytest.mark.parametrize('move', [RandomFlip(), RandAugment(), Mix(10), Crop((8, 8), (0.5, 1.0))])
def test_what_moves_pixels_alone_refuses_places_of_other_columns(move):
    batch = make_batch(2) | {'boxes': jnp.zeros((2, 3, 4))}
    batch = normalized(batch) if isinstance(move, Mix) else batch
    who = type(move).__name__
    with pytest.raises(ValueError, match=f'{who} moves the pixels of image alone, and the batch has boxes'):
        jax.eval_shape(move, batch, KEY)


def test_equal_numbers_of_two_parts_of_a_mixture_draw_apart():
    batch = {name: jnp.zeros(2, jnp.int32) for name in ('epoch', 'index')}
    drawn = lambda batch: jax.random.key_data(example_keys(batch, jax.random.key(0), MIX)).tolist()
    alike, apart = drawn(batch), drawn(batch | {'source': jnp.arange(2)})
    assert alike[0] == alike[1] and apart[0] != apart[1]

"""Batches: a pure function of (seed, step) on any mesh, every example once, nothing left behind."""

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable

import chex
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from longview.data import keyed
from longview.data.features import check_features
from longview.data.images import CenterCrop, PadCrop, RandomResizedCrop, Resize
from longview.input_pipeline import Images, find, local_rows
from tests.data.folder import GARBAGE, data_dir, image_set, with_broken_sets
from tests.data.pictures import numbers, png


def sharding(**axes: int) -> NamedSharding:
    """The batch's sharding on a mesh of as many devices as the axes need."""
    names, sizes = tuple(axes), tuple(axes.values())
    auto = (jax.sharding.AxisType.Auto,) * len(axes)
    devices = jax.devices()[: int(np.prod(sizes))]
    return NamedSharding(jax.make_mesh(sizes, names, axis_types=auto, devices=devices), P(('data', 'fsdp')))


ONE = SingleDeviceSharding(jax.devices()[0])


def digits(**fields) -> Images:
    return Images('digits', data_dir=data_dir(), **fields)


def photos(**fields) -> Images:
    fields = {
        'train_crop': RandomResizedCrop(),
        'eval_crop': CenterCrop(),
        'image_size': 32,
    } | fields
    return Images('fake_imagenet', data_dir=data_dir(), eval_split='validation', **fields)


def first(images: Images, count: int, batch_size: int, seed: int = 0, start_step: int = 0, at=ONE) -> list[dict]:
    with contextlib.closing(images.train(at, batch_size, seed, start_step)) as batches:
        return [jax.tree.map(np.asarray, next(batches)) for _ in range(count)]


@pytest.mark.quick
def test_sizes_and_spec_are_those_of_the_batches():
    images = digits()
    assert (images.num_train, images.num_eval, images.num_classes) == (1438, 359, 10)
    assert images.image_shape == (8, 8, 1)
    at = sharding(data=4, fsdp=2)
    with contextlib.closing(images.train(at, 16, seed=0)) as batches:
        batch = next(batches)
    for name, spec in images.batch_spec(16).items():
        assert (batch[name].shape, batch[name].dtype) == (spec.shape, spec.dtype)
        assert batch[name].sharding.is_equivalent_to(at, batch[name].ndim)
    assert set(batch) == {'image', 'label', 'epoch', 'index'}
    evaluated = next(iter(images.evaluate(ONE, 16)))
    spec = images.batch_spec(16, train=False)
    assert {k: (v.shape, v.dtype) for k, v in evaluated.items()} == {k: (v.shape, v.dtype) for k, v in spec.items()}
    assert photos().image_shape == (32, 32, 3) and photos().num_classes == 1000


@pytest.mark.parametrize(
    'make', [functools.partial(digits, train_split='train[:250]'), photos], ids=['digits', 'photos']
)
def test_every_example_appears_once_per_epoch_and_rows_carry_theirs(make):
    images = make()
    steps = -(-3 * images.num_train // 48)
    batches = first(images, steps, 48, seed=3)
    epoch, index = (np.concatenate([b[name] for b in batches]) for name in ('epoch', 'index'))
    assert (epoch == np.arange(steps * 48) // images.num_train).all()
    for number in range(3):
        assert (np.sort(index[epoch == number]) == np.arange(images.num_train)).all()
    assert (index[: images.num_train] != index[images.num_train : 2 * images.num_train]).any()
    assert any(len(set(b['epoch'].tolist())) == 2 for b in batches), 'some batch straddles two epochs'


@pytest.mark.parametrize(
    'images', [digits(train_crop=PadCrop(padding=2, flip=True)), photos()], ids=['memory', 'stream']
)
def test_starting_at_a_step_continues_the_same_batches(images):
    batches = first(images, 6, 24, seed=1)
    for step in (1, 4, 5):
        chex.assert_trees_all_equal(first(images, 6 - step, 24, seed=1, start_step=step), batches[step:])
    assert (first(images, 1, 24, seed=2)[0]['index'] != batches[0]['index']).any()


@pytest.mark.quick
def test_seeking_makes_no_order_but_those_it_reads(monkeypatch):
    made, permutation = [], keyed.permutation
    monkeypatch.setattr(
        keyed, 'permutation', lambda seed, epoch, size: made.append(epoch) or permutation(seed, epoch, size)
    )
    far = first(digits(), 1, 16, start_step=10**8)[0]
    epoch = 16 * 10**8 // 1438
    assert far['epoch'][0] == epoch and {epoch} <= set(made) <= {epoch, epoch + 1}


@pytest.mark.parametrize(
    'images', [digits(train_crop=PadCrop(padding=2, flip=True)), photos()], ids=['memory', 'stream']
)
def test_augmentation_belongs_to_the_example_not_to_the_batch(images):
    seen = {}
    for size in (24, 36):
        for batch in first(images, 72 // size, size, seed=1):
            for image, epoch, index in zip(batch['image'], batch['epoch'], batch['index']):
                chex.assert_trees_all_equal(image, seen.setdefault((int(epoch), int(index)), image))
    assert len(seen) == 72


def test_another_epoch_or_seed_augments_otherwise():
    """Without the draw for the place, all shifted copies of an image would be equal."""
    images = digits(train_crop=PadCrop(padding=2), train_split='train[:400]')
    shifts: dict[int, set[bytes]] = {}
    for seed in range(2):
        for batch in first(images, 3, 400, seed=seed):
            for image, index in zip(batch['image'], batch['index']):
                shifts.setdefault(int(index), set()).add(image.tobytes())
    # Six draws among 25 shifts, some of which give equal pixels: 5.4 different ones are expected.
    assert 4.8 < np.mean([len(different) for different in shifts.values()]) < 5.5


@functools.cache
def whole_batches() -> tuple[Images, list[dict], list[dict]]:
    """Images, their first two training batches, and those of the evaluation."""
    images = digits(train_crop=PadCrop(padding=1), eval_split='test[:70]')
    return images, first(images, 2, 32, seed=9), [jax.device_get(batch) for batch in images.evaluate(ONE, 32)]


@pytest.mark.parametrize(
    'axes',
    [{'data': 4, 'fsdp': 2}, {'data': 8, 'fsdp': 1}, {'data': 2, 'fsdp': 2, 'tensor': 2}],
    ids=str,
)
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_processes_together_hold_the_global_batch(axes, processes):
    """Each simulated process owns a slice of the devices, as a real one would."""
    images, want, evaluated = whole_batches()
    at = sharding(**axes)
    devices = list(at.mesh.devices.flat)
    per = len(devices) // processes
    covered = set()
    for process in range(processes):
        own = local_rows(at, 32, devices[process * per : (process + 1) * per])
        covered |= set(own.tolist())
        with contextlib.closing(iter(images.host_train(own, 32, 9, 0))) as hosts:
            for host, whole in zip(hosts, want):
                chex.assert_trees_all_equal(host, jax.tree.map(lambda x: x[own], whole))
        with contextlib.closing(iter(images.host_evaluate(own, 32))) as hosts:
            for host, whole in zip(hosts, evaluated, strict=True):
                chex.assert_trees_all_equal(host, jax.tree.map(lambda x: x[own], whole))
    assert covered == set(range(32))


@pytest.mark.quick
def test_processes_that_share_rows_each_hold_them():
    """With the batch on fewer shards than processes, several hold the same rows."""
    at = sharding(tensor=4, data=2, fsdp=1)
    devices = list(at.mesh.devices.flat)
    for process in range(4):
        assert local_rows(at, 8, devices[2 * process : 2 * process + 2]).tolist() == list(range(8))
    at = sharding(data=4, fsdp=2)
    some = list(at.mesh.devices.flat)[1::4]
    own = local_rows(at, 16, some)
    assert own.tolist() == [2, 3, 10, 11], 'rows need not be contiguous'
    held = {device: at.devices_indices_map((16,))[device][0] for device in some}
    assert [own[find(shard, own)].tolist() for shard in held.values()] == [[2, 3], [10, 11]]
    assert own[find(slice(None), own)].tolist() == own.tolist()


@pytest.mark.parametrize('axes', [{'data': 8, 'fsdp': 1}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=str)
def test_any_mesh_gives_the_same_global_batch(axes):
    images = digits(train_crop=PadCrop(padding=1))
    chex.assert_trees_all_equal(first(images, 2, 16, at=sharding(**axes)), first(images, 2, 16))


@pytest.mark.parametrize('batch_size', [8, 40, 359, 400])
def test_evaluation_sees_every_example_once_and_in_order(batch_size):
    images = digits()
    batches = [jax.tree.map(np.asarray, b) for b in images.evaluate(ONE, batch_size)]
    assert all(b['image'].shape == (batch_size, 8, 8, 1) for b in batches)
    mask = np.concatenate([b['mask'] for b in batches])
    index = np.concatenate([b['index'] for b in batches])
    assert (index[mask] == np.arange(359)).all()
    assert mask[:359].all() and not mask[359:].any()
    source = images._builder.as_data_source('test')
    pixels = np.concatenate([b['image'] for b in batches])[mask]
    chex.assert_trees_all_equal(pixels, np.stack([example['image'] for example in source]))
    labels = np.concatenate([b['label'] for b in batches])[mask]
    assert labels.tolist() == [example['label'] for example in source]


def test_how_it_is_read_changes_no_number():
    want = first(photos(), 3, 16)
    for fields in ({'threads': 1}, {'threads': 5, 'prefetch': 0}, {'prefetch': 7}):
        chex.assert_trees_all_equal(first(photos(**fields), 3, 16), want)
    fixed = {'train_crop': PadCrop(padding=4, flip=True)}
    memory, stream = (first(photos(in_memory=kept, **fixed), 3, 16) for kept in (True, False))
    chex.assert_trees_all_equal(memory, stream)


def test_small_splits_are_kept_in_memory_and_random_reads_are_not():
    assert digits()._train.in_memory and digits()._eval.in_memory
    assert not photos()._train.in_memory and photos()._eval.in_memory
    assert not digits(image_size=1024)._train.in_memory
    assert not digits(in_memory=False)._eval.in_memory


def test_slices_of_splits_are_splits():
    images = digits(train_split='train[:10%]', eval_split='train[10%:]')
    assert (images.num_train, images.num_eval) == (144, 1438 - 144)
    assert max(b['index'].max() for b in first(images, 9, 16)) == 143


def test_an_image_size_resizes():
    (batch,) = first(digits(image_size=20), 1, 4)
    assert batch['image'].shape == (4, 20, 20, 1)


KINDS = tfds.features.ClassLabel(num_classes=3)
GRAY = tfds.features.Image(shape=(8, 8, 1), encoding_format='png')
FILE, ARRAY = tfds.features.Image, tfds.features.Tensor
# Type, channels and feature of the images that are carried, beside photographs.
CARRIED = {
    'gray of 16 bits': ('uint16', 1, functools.partial(FILE, dtype=np.uint16, encoding_format='png')),
    'colours of 16 bits': ('uint16', 3, functools.partial(FILE, dtype=np.uint16, encoding_format='png')),
    'four channels': ('uint8', 4, functools.partial(FILE, encoding_format='png')),
    'float files': ('float32', 1, functools.partial(FILE, dtype=np.float32)),
    'five bands': ('float32', 5, functools.partial(ARRAY, dtype=np.float32)),
    'hounsfield': ('int16', 1, functools.partial(ARRAY, dtype=np.int16)),
    'two channels': ('uint8', 2, functools.partial(ARRAY, dtype=np.uint8)),
}


@functools.cache
def carried(case: str) -> tuple[np.ndarray, str]:
    """A set of six images of that kind: the arrays (6, 8, 8, C), and its name."""
    dtype, channels, feature = CARRIED[case]
    images = numbers(dtype, 6, 8, 8, channels)
    described, stored = feature(shape=(8, 8, channels)), images
    if case == 'float files':  # whose encoder in TFDS needs TensorFlow
        stored = images.view(np.uint8)
        described._image_encoder.encode_image_or_path = bytes
    examples = [(png(image) if feature.func is FILE else image, i % 3) for i, image in enumerate(stored)]
    return images, image_set(case.replace(' ', '_'), described, KINDS, examples)


def every(images: Images, count: int = 6) -> dict[str, np.ndarray]:
    """An epoch of training and, as `eval/...`, the evaluation split, both in the order of their index."""
    (batch,) = first(images, 1, count)
    evaluated = jax.device_get(next(iter(images.evaluate(ONE, count))))
    order = np.argsort(batch['index'])
    return {k: x[order] for k, x in batch.items()} | {f'eval/{k}': x for k, x in evaluated.items()}


@pytest.mark.parametrize('in_memory', [True, False], ids=['memory', 'stream'])
@pytest.mark.parametrize('case', CARRIED)
def test_the_numbers_that_are_stored_arrive_whatever_their_type(case, in_memory):
    want, name = carried(case)
    for train, evaluation in ((PadCrop(padding=0), Resize()), (Resize(), CenterCrop(fraction=1.0))):
        images = Images(name, data_dir(), train_crop=train, eval_crop=evaluation, in_memory=in_memory)
        images.check()
        spec, got = images.batch_spec(6), every(images)
        assert (spec['image'].shape, spec['image'].dtype) == (want.shape, want.dtype)
        chex.assert_trees_all_equal((got['image'], got['eval/image']), (want, want))
        assert got['label'].tolist() == got['eval/label'].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize('case', CARRIED)
def test_resized_images_keep_their_type_in_memory_and_streamed(case):
    want, name = carried(case)
    kept, streamed = (every(Images(name, data_dir(), image_size=5, in_memory=memory)) for memory in (True, False))
    chex.assert_trees_all_equal(kept, streamed)
    (cropped,) = first(Images(name, data_dir(), image_size=5, train_crop=RandomResizedCrop()), 1, 6)
    for image in (kept['image'], kept['eval/image'], cropped['image']):
        assert (image.shape, image.dtype) == ((6, 5, 5, want.shape[-1]), want.dtype)


def test_what_fits_into_memory_is_counted_in_bytes(monkeypatch):
    monkeypatch.setattr('longview.data.records.SMALL', 6 * 8 * 8 * 4)
    assert Images(carried('four channels')[1], data_dir())._train.in_memory
    assert Images(carried('float files')[1], data_dir())._train.in_memory
    assert not Images(carried('five bands')[1], data_dir())._train.in_memory


# Feature, labels and the type that they arrive in.
LABELS = {
    'counts': (tfds.features.Scalar(np.int64), [3, -1, 2**31 - 1, 0], np.int32),
    'ages': (tfds.features.Scalar(np.float32), [0.5, 3.25, -1.0, 0.1], np.float32),
    'doubles': (tfds.features.Scalar(np.float64), [0.1, 1 / 3, -1.0, np.inf], np.float32),
    'answers': (tfds.features.Scalar(np.bool_), [True, False, True, True], np.int32),
    'kinds': (KINDS, [0, 1, 2, 2], np.int32),
}


@pytest.mark.parametrize('case', LABELS)
def test_a_label_may_be_a_number(case):
    feature, labels, dtype = LABELS[case]
    name = image_set(case, GRAY, feature, [(png(np.zeros((8, 8, 1), np.uint8)), label) for label in labels])
    for in_memory in (True, False):
        images = Images(name, data_dir(), in_memory=in_memory)
        got = every(images, 4)
        want = np.array(labels).astype(dtype)
        chex.assert_trees_all_equal((got['label'], got['eval/label']), (want, want))
        assert images.batch_spec(4)['label'].dtype == images.batch_spec(4, train=False)['label'].dtype == dtype
        assert images.num_classes == (3 if case == 'kinds' else None)


@pytest.mark.parametrize(
    ('dtype', 'label', 'message'),
    [
        (np.int64, 2**31, 'its label 2147483648 does not fit into int32'),
        (np.uint64, 2**64 - 1, 'its label 18446744073709551615 does not fit into int32'),
        (np.float64, 1e39, r'its label 1e\+39 does not fit into float32'),
    ],
)
def test_a_label_out_of_range_is_refused_and_not_wrapped(dtype, label, message):
    file = png(np.zeros((8, 8, 1), np.uint8))
    examples = [(file, 1), (file, 2), (file, label)]
    name = image_set(
        f'too_large_{np.dtype(dtype).name}', GRAY, ARRAY(shape=(), dtype=dtype, encoding='bytes'), examples
    )
    for in_memory in (True, False):
        with pytest.raises(ValueError, match=f"Example 2 of the split 'train' in .* cannot be read .{message}.; mend"):
            first(Images(name, data_dir(), in_memory=in_memory), 1, 3)


@pytest.mark.parametrize('crop', [Resize(), RandomResizedCrop()], ids=['memory', 'stream'])
def test_an_image_that_would_be_altered_is_named(crop, monkeypatch):
    """Among photographs, one of 16 bits, and one of so many pixels that Pillow takes it for an attack."""
    small, deep, large = (
        png(numbers('uint8', 4, 4, 3)),
        png(numbers('uint16', 4, 4, 3)),
        png(numbers('uint8', 20, 30, 3)),
    )
    image = tfds.features.Image(shape=(None, None, 3))
    name = image_set(f'mixed_{crop.draws}', image, KINDS, [(small, 0), (deep, 1), (small, 2), (large, 2)])
    read = lambda split: first(Images(name, data_dir(), split, image_size=8, train_crop=crop), 1, 2)
    with pytest.raises(ValueError, match="Example 1 of the split 'train.:2.' .*more than 8 bits a channel"):
        read('train[:2]')
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 250)
    with pytest.raises(ValueError, match="Example 1 of the split 'train.2:.' .*more than the 500 pixels"):
        read('train[2:]')


@dataclasses.dataclass(frozen=True)
class OneChannel(Resize):
    """A crop of somebody's own that loses channels."""

    def read(self, data, size, channels, draws):
        return super().read(data, size, channels, draws)[..., :1]


@pytest.mark.parametrize('in_memory', [True, False], ids=['memory', 'stream'])
def test_a_crop_that_makes_another_shape_than_announced_is_named(in_memory):
    images = Images(carried('four channels')[1], data_dir(), train_crop=OneChannel(), in_memory=in_memory)
    with pytest.raises(ValueError, match=r'OneChannel\(.* makes it uint8 \(8, 8, 1\), wanted uint8 \(8, 8, 4\)'):
        first(images, 1, 6)


# Features of the image and of the label, and what is said of them.
REFUSED = {
    'doubles': (ARRAY(shape=(8, 8, 1), dtype=np.float64), KINDS, 'are float64; Images reads uint8, uint16, int16'),
    'pairs': (
        FILE(shape=(8, 8, 2), encoding_format='png'),
        KINDS,
        'are files of 2 channels; Images reads files of 1, 3',
    ),
    'planes': (ARRAY(shape=(8, 8), dtype=np.uint8), KINDS, 'is a Tensor of shape .8, 8.; Images reads an Image or'),
    'nested': (tfds.features.FeaturesDict({'a': FILE()}), KINDS, 'is a FeaturesDict of shape .*; Images reads'),
    'texts': (GRAY, tfds.features.Text(), 'is a Text of shape ..; Images reads one number for each image'),
    'boxes': (GRAY, ARRAY(shape=(4,), dtype=np.float32), 'is a Tensor of shape .4,.; Images reads one number'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_sets_that_cannot_be_carried_are_refused_before_they_are_read(case):
    image, label, message = REFUSED[case]
    described = tfds.features.FeaturesDict({'image': image, 'label': label})
    with pytest.raises(ValueError, match=f"of the data set 'mine' {message}") as caught:
        check_features(described, 'mine')
    assert '\n' not in str(caught.value)


def test_a_folder_of_images_is_a_data_set(tmp_path):
    for split, count in (('train', 8), ('validation', 4)):
        for kind in ('cats', 'dogs'):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(count):
                color = np.full((5, 7, 3), number + 100 * (kind == 'dogs'), np.uint8)
                (tmp_path / split / kind / f'{number}.png').write_bytes(png(color))
    images = Images(str(tmp_path), eval_split='validation', image_size=4)
    images.check()
    assert (images.num_train, images.num_eval, images.num_classes, images.image_shape) == (16, 8, 2, (4, 4, 3))
    got = every(images, 16)
    assert sorted(got['image'][:, 0, 0, 0]) == [*range(8), *range(100, 108)]
    assert (got['label'] == got['image'][:, 0, 0, 0] // 100).all()
    (tmp_path / 'train' / 'cats' / '0.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match="of the split 'train' in .*, .*train/cats/0.png, cannot be read"):
        first(Images(str(tmp_path), eval_split='validation', image_size=4), 1, 16)


EIGHT = {'data': 4, 'fsdp': 2}
MISTAKES = {
    'batch': (
        lambda: digits().train(sharding(**EIGHT), 20, 0),
        'A batch of 20 does not divide over the 8 shards of the mesh axes .*; make batch_size a multiple of 8',
    ),
    'eval batch': (
        lambda: digits().evaluate(sharding(**EIGHT), 12),
        'A batch of 12 does not divide over the 8 shards',
    ),
    'seed': (
        lambda: digits().train(ONE, 8, -1),
        r'seed=-1 is out of range; use 0 <= seed < 2\*\*32',
    ),
    'split': (
        lambda: digits(train_split='trian').check(),
        "'digits' has no split 'trian'; it has train, test",
    ),
    'slice': (
        lambda: digits(train_split='train[:1o%]').check(),
        "'train.:1o%.' is no slice of a split; write it like",
    ),
    'varying size': (
        lambda: photos(image_size=None).check(),
        "'fake_imagenet' are stored as None x None .*; set image_size",
    ),
    'random evaluation': (
        lambda: digits(eval_crop=PadCrop()),
        'eval_crop=PadCrop.* draws random numbers; evaluation wants a fixed one',
    ),
    'memory': (
        lambda: photos(in_memory=True),
        'in_memory=True does not go with train_crop=RandomResizedCrop',
    ),
    'name': (
        lambda: Images('digitz', data_dir=data_dir()).check(),
        "No data set is called 'digitz'.*did you mean 'digits'",
    ),
    'features': (
        lambda: Images('unlabelled', data_dir=with_broken_sets(), eval_split='train').check(),
        "'unlabelled' has no feature 'image', only text",
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_answered_in_a_sentence(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('fields', [{}, {'prefetch': 0}, {'train_crop': Resize()}], ids=['stream', 'alone', 'memory'])
def test_a_damaged_image_is_named(fields):
    settings = {
        'image_size': 32,
        'train_crop': RandomResizedCrop(),
        'eval_split': 'validation',
    } | fields
    images = Images('broken', data_dir=with_broken_sets(), **settings)
    images.check()  # the first image of each split is whole
    message = (
        f"Example {GARBAGE} of the split 'train' in .*broken.*, train_002.JPEG, cannot be read "
        '.it is none of BMP, .*; mend it'
    )
    with (
        contextlib.closing(images.train(ONE, 8, seed=0)) as batches,
        pytest.raises(ValueError, match=message),
    ):
        for _ in range(4):
            next(batches)
    with pytest.raises(ValueError, match=f"Example {GARBAGE} of the split 'validation'"):
        list(images.evaluate(ONE, 8))
    sliced = Images(
        'broken',
        data_dir=with_broken_sets(),
        **settings | {'train_split': f'train[{GARBAGE + 1}:]'},
    )
    assert len(first(sliced, 4, 8)) == 4
    assert_no_threads()


def until(true: Callable[[], bool]) -> None:
    """Waits until something is true, for a minute at most."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)


def threads() -> list[str]:
    """Names of the reading threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith('grain')]


def assert_no_threads() -> None:
    """Those that were told to end take their time."""
    until(lambda: not threads())
    assert threads() == []


@pytest.mark.parametrize('make', [digits, photos])
def test_closing_leaves_no_thread(make):
    batches = make().train(ONE, 8, seed=0)
    next(batches)
    assert threads()
    batches.close()
    assert_no_threads()
    batches.close()  # twice is fine

    with contextlib.closing(make().evaluate(ONE, 8)) as batches:
        list(batches)
    assert_no_threads()


def test_batches_are_prepared_ahead_by_so_many():
    images, begun = digits(prefetch=3), []
    stream = keyed.stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, 'stream', lambda *args: begun.append(1) or stream(*args))
        with contextlib.closing(images.train(ONE, 8, seed=0)) as batches:
            next(batches)
            until(lambda: len(begun) == 5)  # one taken, three waiting, one in the thread's hands
            time.sleep(0.3)  # in which no further one may begin
    assert len(begun) == 5

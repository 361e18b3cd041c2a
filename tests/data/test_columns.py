"""Columns of every kind: what is stored arrives exactly, padded and marked, or is refused before it is read."""

import functools
import pathlib
import re

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from longview.data import columns as columns_module
from longview.data.column import Column, find
from longview.data.columns import Boxes, Classes, ClassMap, Label, Numbers, Pixels, Points, Tokens
from longview.data.decoding import decode_values
from longview.data.features import check_features
from longview.data.images import CenterCrop, Pad, PadCrop, RandomResizedCrop, Resize
from longview.input_pipeline import Arrays, Images
from longview.runtime.resolve import resolve
from tests.data.folder import data_dir
from tests.data.painted import painted, record_set
from tests.data.pictures import PHOTO, encoded, jpeg, numbers, png
from tests.data.streams import evaluation, first

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'
F = tfds.features
BOXES = [[], [[0.1, 0.2, 0.5, 0.6]], [[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [0.5, 0.5, 0.625, 0.75]]]
FEATURES = {
    'image': F.Image(shape=(8, 16, 1), encoding_format='png'),
    'image/id': F.Scalar(np.int64),
    'depth': F.Image(shape=(8, 16, 1), dtype=np.uint16, encoding_format='png'),
    'objects': F.Sequence(
        {'bbox': F.BBoxFeature(), 'label': F.ClassLabel(num_classes=7), 'is_crowd': F.Scalar(np.bool_)}
    ),
    'text': F.Sequence(F.Scalar(np.int32)),
    'cloud': F.Tensor(shape=(None, 3), dtype=np.float32),
    'pose': F.Tensor(shape=(2, 3), dtype=np.float64),
    'flags': F.Tensor(shape=(2,), dtype=np.bool_),
    'caption': F.Text(),
    'wide': F.Tensor(shape=(8, 16), dtype=np.int32),
}
IMAGES, DEPTHS = numbers('uint8', 3, 8, 16, 1), numbers('uint16', 3, 8, 16, 1)
POSES = numbers('float32', 3, 2, 3).astype(np.float64) / 3


@functools.cache
def photographs() -> str:
    """Three records with much beside the image; record n has n words, and as many points."""
    rows = [
        {
            'image': png(IMAGES[n]),
            'image/id': 100 + n,
            'depth': png(DEPTHS[n]),
            'objects': [
                {'bbox': F.BBox(*box), 'label': 2 * k + n, 'is_crowd': k == 1} for k, box in enumerate(BOXES[n])
            ],
            'text': list(range(5, 5 + n)),
            'cloud': np.full((n, 3), n, np.float32),
            'pose': POSES[n],
            'flags': np.array([True, n == 1]),
            'caption': 'a cat',
            'wide': np.full((8, 16), 70_000 + n, np.int32),
        }
        for n in range(3)
    ]
    return record_set('photographs', FEATURES, rows)


def read(columns, **fields) -> dict[str, np.ndarray]:
    """The evaluation split, of three examples, streamed and in memory."""
    kept, streamed = (
        Images(photographs(), data_dir(), columns=columns, in_memory=memory, **fields) for memory in (True, False)
    )
    (batch,), (again,) = evaluation(kept, 3), evaluation(streamed, 3)
    chex.assert_trees_all_equal(batch, again)
    spec = {name: (x.shape, x.dtype) for name, x in kept.batch_spec(3, train=False).items()}
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == spec
    return batch


def test_every_kind_brings_what_is_stored():
    objects = {'feature': 'objects/bbox', 'label': 'objects/label'}
    batch = read(
        {
            'image': Pixels(),
            'depth': Pixels(),
            'meters': Pixels(feature='depth', dtype='float32'),
            'number': Label(feature='image/id'),
            'boxes': Boxes(at_most=4, **objects),
            'told': Boxes(
                at_most=3, more={'crowd': 'objects/is_crowd', 'kind': 'objects/label'}, feature='objects/bbox'
            ),
            'alone': Boxes(at_most=2, leave_out='objects/is_crowd', **objects),
            'present': Classes(feature='objects/label'),
            'present_too': Classes(feature='objects/label', num_classes=9, dtype='bool'),
            'words': Tokens(at_most=3, feature='text'),
            'points': Points(at_most=3, feature='cloud'),
            'pose': Numbers(geometric=True),
            'flags': Numbers(),
            'map': ClassMap(feature='wide', ignore=-1),
        }
    )
    chex.assert_trees_all_equal((batch['image'], batch['depth']), (IMAGES, DEPTHS))
    chex.assert_trees_all_equal(batch['meters'], DEPTHS.astype(np.float32))
    assert batch['number'].tolist() == [100, 101, 102]
    size = np.array([8, 16, 8, 16])
    for row, boxes in enumerate(BOXES):
        count = len(boxes)
        assert batch['boxes_valid'][row].tolist() == [True] * count + [False] * (4 - count)
        np.testing.assert_allclose(batch['boxes'][row, :count], np.array(boxes).reshape(-1, 4) * size, rtol=1e-6)
        labels = [2 * k + row for k in range(count)]
        assert batch['boxes_label'][row].tolist() == labels + [0] * (4 - count)
        present = np.isin(np.arange(9), labels)
        assert (
            batch['present'][row].tolist() == present[:7].tolist()
            and batch['present_too'][row].tolist() == present.tolist()
        )
        assert batch['words'][row].tolist() == list(range(5, 5 + row)) + [0] * (3 - row)
        assert batch['words_valid'][row].tolist() == batch['points_valid'][row].tolist() == [n < row for n in range(3)]
        assert batch['points'][row].tolist() == [[row] * 3] * row + [[0] * 3] * (3 - row)
    assert batch['told_crowd'].tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    chex.assert_trees_all_equal(batch['told_kind'], batch['boxes_label'][:, :3])
    assert 'told_label' not in batch
    assert batch['alone_label'].tolist() == [[0, 0], [1, 0], [2, 6]], 'crowds are no boxes'
    assert (batch['present'].dtype, batch['present_too'].dtype) == (np.float32, bool)
    chex.assert_trees_all_equal(batch['pose'], POSES.astype(np.float32))
    assert batch['flags'].tolist() == [[True, False], [True, True], [True, False]]
    chex.assert_trees_all_equal(batch['map'][:, 0, 0], np.array([70_000, 70_001, 70_002], np.int32))


def test_a_config_names_the_kinds():
    config = {
        'fn': 'input_pipeline:Images',
        'dataset': photographs(),
        'data_dir': data_dir(),
        'columns': {
            'image': {'fn': 'data.columns:Pixels'},
            'boxes': {'fn': 'data.columns:Boxes', 'at_most': 4, 'feature': 'objects/bbox', 'label': 'objects/label'},
        },
    }
    data = resolve(config)
    data.check()
    assert data.num_classes == 7 and set(data.batch_spec(2)) == {
        *('image', 'boxes', 'boxes_valid', 'boxes_label', 'epoch', 'index')
    }


def test_the_page_shows_columns_that_are_read_and_names_all_kinds():
    section = PAGE.read_text().partition('\n## Columns\n')[2].partition('\n## ')[0]
    (block,), names = re.findall(r'```python\n(.*?)```', section, re.S), {}
    exec(block, names)
    data = Images(painted('uint8'), data_dir(), columns=resolve(names['columns']), image_size=(64, 96))
    data.check()
    spec, (batch,) = data.batch_spec(4), first(data, 1, 4)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {n: (x.shape, x.dtype) for n, x in spec.items()}
    assert spec['map'].shape == (4, 16, 24) and spec['boxes'].shape == (4, 100, 4) and data.num_classes == 4
    kinds = {kind.__name__ for kind in Column.__subclasses__() if hasattr(columns_module, kind.__name__)}
    assert len(kinds) == 9 and all(f'| `{kind}` |' in section for kind in kinds)


def test_records_need_no_image():
    columns = {'words': Tokens(3, 'text'), 'label': Label('image/id')}
    data = Images(photographs(), data_dir(), columns=columns, eval_crop=Pad())
    data.check()
    (batch,) = first(data, 1, 3)
    assert set(batch) == {'words', 'words_valid', 'label', 'epoch', 'index'} and data.num_classes is None


def test_classes_are_those_of_the_label_or_of_the_map_or_of_the_boxes():
    boxes = Boxes(4, 'objects/bbox', 'objects/label')
    classes = lambda **columns: Images(photographs(), data_dir(), columns={'image': Pixels(), **columns}).num_classes
    assert classes(boxes=boxes) == classes(other=Classes('objects/label')) == 7
    assert classes(boxes=boxes, map=ClassMap('wide', num_classes=80_000, ignore=-1)) == 80_000
    assert classes(boxes=boxes, label=Label('image/id')) is None
    assert (
        Images(painted('uint8'), data_dir(), image_size=8, columns={'image': Pixels(), 'map': ClassMap()}).num_classes
        == 4
    )


@pytest.mark.parametrize('in_memory', [True, False])
def test_labels_are_found_without_their_images(in_memory, monkeypatch):
    data = Images(
        photographs(), data_dir(), columns={'image': Pixels(), 'label': Label('image/id')}, in_memory=in_memory
    )
    if not in_memory:
        monkeypatch.setattr('longview.data.images.decode', None)
    assert data.source().labels().tolist() == [100, 101, 102]


def test_more_than_there_is_room_for_is_refused_or_cut_where_that_is_said():
    for name, kind, message in (
        (
            'boxes',
            functools.partial(Boxes, 2, 'objects/bbox', 'objects/label'),
            'it has 3 boxes and at_most is 2: raise',
        ),
        ('words', functools.partial(Tokens, 1, 'text'), 'it has 2 words and at_most is 1: raise'),
        ('points', functools.partial(Points, 1, 'cloud'), 'it has 2 points and at_most is 1: raise'),
    ):
        with pytest.raises(ValueError, match=f"Example 2 of the split 'test' in .* cannot be read .{message}"):
            read({'image': Pixels(), name: kind()})
        batch = read({'image': Pixels(), name: kind(cut=True)})
        assert batch[f'{name}_valid'][2].all()


# A kind, the crop beside it, and what is said; the column is called as the feature, unless it names one.
MISFITS = {
    'texts': ('caption', Label(), 'The caption of the data set .mine. is a Text of shape ..; Images reads one number'),
    'no feature': ('bbox', Boxes(3), "has no feature 'bbox', only .*objects/bbox, .*: give the column the name of one"),
    'boxes of numbers': (
        'pose',
        Boxes(3),
        r'is a Tensor of shape \(2, 3\); Images reads boxes from a Sequence of BBox',
    ),
    'labels of boxes': (
        'objects/bbox',
        Boxes(3, label='pose'),
        r"asks for 'pose', which is float64 .*one class of each",
    ),
    'more of boxes': (
        'objects/bbox',
        Boxes(3, more={'area': 'pose'}),
        r"asks for 'pose', which is .*one number of each",
    ),
    'one more': ('objects/bbox', Boxes(3, more={'valid': 'flags'}), 'has the columns label and valid already: rename'),
    'boxes in pixels': ('objects/bbox', Boxes(3, pixels=True), 'is a BBoxFeature, whose boxes are no pixels: leave'),
    'pixels of a map': ('wide', Pixels(), r'is a Tensor of shape \(8, 16\); Images reads an Image or a Tensor of'),
    'a map of colours': ('flags', ClassMap(), 'Images reads a map of classes from an Image or a Tensor'),
    'a map of doubles': (
        'doubles',
        ClassMap(),
        'The classes of the column of .* are float64; Images reads bool, uint8',
    ),
    'ignoring a class': ('wide', ClassMap(num_classes=300), 'ignores 255, one of its 300 classes: set ignore to -1'),
    'rounding': ('depth', Pixels(dtype='float16'), 'is stored as uint16, which float16 does not hold exactly: leave'),
    'points in a plane': ('cloud', Points(3, coordinates='pixels'), 'reads places in an image of two coordinates'),
    'coordinates': ('cloud', Points(3, coordinates='meters'), "coordinates='meters' are none of fractions, pixels"),
    'varying numbers': ('cloud', Numbers(), r'of shape \(None, 3\); Images reads numbers from a Tensor of a fixed'),
    'words as text': ('caption', Tokens(3), 'Images reads words as numbers, a Sequence or a Tensor of integers'),
    'one class': ('image/id', Classes(num_classes=3), 'Images reads several classes for each image from a Sequence'),
    'unknown classes': ('text', Classes(), 'does not say how many classes there are: set num_classes'),
    'kind of numbers': ('text', Classes(num_classes=3, dtype='int8'), "has the dtype 'int8'; wanted float32 or bool"),
    'stride': ('wide', ClassMap(stride=3, ignore=-1), 'has the stride 3, which does not divide images of 8 x 16'),
    'name': (None, {'mask': Label('image/id')}, "column of the data set 'mine' is called 'mask', which is the name of"),
    'no image': (
        None,
        {'boxes': Boxes(3, 'objects/bbox')},
        'The boxes of .* shows places in an image, and there is no',
    ),
    'image': (
        None,
        {'image': ClassMap('wide')},
        'The column image of the data set .mine. is ClassMap.*; wanted Pixels',
    ),
    'scale': (None, {'image': Pixels(scale=2)}, 'The column image has the size and the interpolation of its crop'),
}


@pytest.mark.parametrize('case', MISFITS)
def test_a_kind_that_does_not_fit_its_feature_is_refused_before_it_is_read(case):
    feature, kind, message = MISFITS[case]
    described = F.FeaturesDict(FEATURES | {'doubles': F.Tensor(shape=(8, 16), dtype=np.float64)})
    columns = kind
    if feature is not None:
        columns = {'image': Pixels(), 'column': type(kind)(**vars(kind) | {'feature': feature})}
        message = message.replace('The caption', 'The column')
    with pytest.raises(ValueError, match=message) as caught:
        check_features(described, 'mine', columns, Resize(), (8, 16))
    assert '\n' not in str(caught.value)


POSE, SIDED = Numbers('pose', geometric=True), Points(3, 'eyes', 'fractions', sided=True)
FALSIFIED = {
    'a pose, mirrored': (
        POSE,
        PadCrop(padding=0, flip=True),
        'is falsified by a mirror, and PadCrop.* mirrors: set its',
    ),
    'a pose, cut': (
        POSE,
        CenterCrop(),
        'is falsified where the image is cut, and CenterCrop.* cuts: use Resize or Pad',
    ),
    'a pose, shifted': (POSE, PadCrop(), 'is falsified where the image is cut, and PadCrop'),
    'eyes, mirrored': (SIDED, RandomResizedCrop(), 'is falsified by a mirror, and RandomResizedCrop'),
    'eyes, padded and mirrored': (SIDED, Pad(flip=True), 'is falsified by a mirror, and Pad'),
    'flow, mirrored': (Pixels('depth', sided=True), Pad(flip=True), 'is falsified by a mirror, and Pad'),
    'a crop without geometry': (ClassMap('wide'), object(), 'follows the geometry of the crop, and .* says none: make'),
}


@pytest.mark.parametrize('case', FALSIFIED)
def test_what_a_crop_would_falsify_is_refused(case):
    column, crop, message = FALSIFIED[case]
    described = F.FeaturesDict(FEATURES | {'eyes': F.Tensor(shape=(None, 2), dtype=np.float32)})
    with pytest.raises(ValueError, match=message):
        check_features(described, 'mine', {'image': Pixels(), 'column': column}, crop, (8, 16))
    for harmless in (Resize(), Pad(), RandomResizedCrop(flip=False) if column is SIDED else Resize()):
        check_features(described, 'mine', {'image': Pixels(), 'column': column}, harmless, (8, 16))


WRONG = {
    'a class beyond': (
        {'map': np.full((4, 4), 3, np.uint8)},
        ClassMap(num_classes=3),
        'its map has the class 3, of 3, and',
    ),
    'a class below': ({'present': [4]}, Classes(num_classes=4), 'its present has the class 4, of 4'),
    'corners in another order': (
        {'boxes': [[0.5, 0.1, 0.2, 0.3]]},
        Boxes(2),
        'its boxes has .0.5, 0.1, 0.2, 0.3., wanted .y0, x0, y1, x1. with y0 <= y1',
    ),
    'another size': (
        {'map': np.zeros((4, 5), np.uint8)},
        ClassMap(),
        'its map is stored as 4 x 5 and its image as 4 x 4, wanted that size, a whole multiple of it or a whole part',
    ),
    'part of a pixel': (
        {'other': np.zeros((2, 2, 1), np.uint8)},
        Pixels(),
        "its other is stored smaller than its image, where a crop may cut .*interpolation='nearest'",
    ),
}
STORED = {
    'map': F.Tensor(shape=(None, None), dtype=np.uint8, encoding='bytes'),
    'present': F.Sequence(F.Scalar(np.int64)),
    'boxes': F.Tensor(shape=(None, 4), dtype=np.float32),
    'other': F.Tensor(shape=(None, None, 1), dtype=np.uint8, encoding='bytes'),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_record_that_does_not_fit_is_named(case):
    stored, kind, message = WRONG[case]
    ((name, value),) = stored.items()
    image = F.Image(shape=(4, 4, 1), encoding_format='png')
    rows = [{'image': png(numbers('uint8', 4, 4, 1)), name: value}]
    dataset = record_set(f'wrong_{case.replace(" ", "_")}', {'image': image, name: STORED[name]}, rows)
    crop = RandomResizedCrop(area=(0.5, 0.5), ratio=(1, 1)) if case == 'part of a pixel' else Resize()
    images = Images(dataset, data_dir(), columns={'image': Pixels(), name: kind}, train_crop=crop)
    with pytest.raises(ValueError, match=f"Example 0 of the split 'train' .* cannot be read .{message}"):
        images.check()


def test_files_of_classes_are_read_as_numbers_and_not_as_colours():
    classes = numbers('uint8', 9, 7, 1)
    chex.assert_trees_all_equal(decode_values(png(classes)), classes[..., 0])
    wide = numbers('uint16', 9, 7, 1)
    chex.assert_trees_all_equal(decode_values(png(wide), np.uint16), wide[..., 0])
    palette = Image.fromarray(classes[..., 0] % 8)
    palette.putpalette([255 - n for n in range(24)])
    assert palette.mode == 'P'
    chex.assert_trees_all_equal(decode_values(encoded(palette, 'png')), classes[..., 0] % 8)
    with pytest.raises(ValueError, match='it is a JPEG, which does not keep the values of pixels: store it as a PNG'):
        decode_values(jpeg(9, 7))
    with pytest.raises(ValueError, match='it is stored as RGB, wanted 1 or L or P'):
        decode_values(png(PHOTO[:9, :7]))


def test_two_columns_of_one_name_are_refused():
    columns = {'boxes': Boxes(3, 'objects/bbox'), 'boxes_valid': Numbers('flags'), 'image': Pixels()}
    with pytest.raises(ValueError, match="Two columns of the data set .* give 'boxes_valid': rename one"):
        Images(photographs(), data_dir(), columns=columns).batch_spec(1)


def test_a_feature_is_found_by_its_path_and_so_is_its_value():
    described = F.FeaturesDict(FEATURES)
    inner, flat = (find(described, path, 'mine') for path in ('objects/bbox', 'image/id'))
    assert (inner.shape, inner.dtype, flat.shape, flat.dtype) == ((None, 4), np.float32, (), np.int64)
    assert inner.value({'objects': {'bbox': 'b'}}) == 'b' and flat.value({'image': 0, 'image/id': 3}) == 3


CARRIED = ('bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'float16', 'bfloat16', 'float32')


def arrays(**fields) -> Arrays:
    columns = fields.pop('columns')
    return Arrays(lambda: columns, lambda: columns, **fields)


def test_arrays_of_any_names_come_in_their_own_types():
    of = lambda name: np.dtype(getattr(ml_dtypes, name) if name == 'bfloat16' else name)
    columns = {name: np.arange(10).reshape(5, 2).astype(of(name)) for name in CARRIED}
    data = arrays(columns=columns | {'label': np.arange(5)}, num_classes=5)
    data.check()
    (batch,) = evaluation(data, 5)
    spec = data.batch_spec(5, train=False)
    for name, want in columns.items():
        assert batch[name].dtype == spec[name].dtype == of(name)
        chex.assert_trees_all_equal(batch[name], want)
    assert batch['label'].dtype == np.int32 and batch['label'].tolist() == list(range(5)) and data.num_classes == 5


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'x': np.zeros((2, 3))}, "The column 'x' of the data is float64, which a batch cannot hold: make it float32"),
        (
            {'x': np.array([1, 2**40])},
            "The column 'x' of the data is int64 from 0 to 1099511627776, which int32 does not",
        ),
        (
            {'x': np.array(['a', 'b'])},
            "The column 'x' of the data is <U1, which a batch cannot hold: make it one of bool",
        ),
        ({'x': np.zeros((0, 3), np.int32)}, "the arrays have lengths {'x': 0}; wanted one length"),
        ({}, 'the arrays have lengths {}; wanted one length'),
        ({'label': np.array([0, 3])}, 'The data has the label 3 and num_classes is 3: raise it'),
    ],
)
def test_arrays_that_a_batch_would_alter_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        arrays(columns=columns, num_classes=3).check()


def test_a_data_set_that_is_one_example_is_on_every_device():
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    nodes, edges = numbers('float32', 5, 3), np.array([[0, 1], [1, 4], [2, 3]])
    data = arrays(columns={'nodes': nodes, 'edges': edges, 'degree': np.float32(2)}, whole=True)
    assert data.whole and (data.num_train, data.num_eval) == (1, 1)
    batches = data.train(everywhere, 1, seed=0, start_step=3)
    batch = next(batches)
    batches.close()
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in data.batch_spec(1).items()
    }
    assert batch['nodes'].shape == (1, 5, 3) and batch['epoch'].tolist() == [3] and batch['degree'].shape == (1,)
    assert all(x.sharding.is_fully_replicated for x in batch.values())
    chex.assert_trees_all_equal(jax.device_get(batch['nodes'][0]), nodes)
    (evaluated,) = data.evaluate(everywhere, 1)
    assert evaluated['mask'].tolist() == [True]

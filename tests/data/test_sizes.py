"""Images of any size and shape: frames that are no squares, and one frame for images of varying size."""

import chex
import numpy as np
import pytest
import tensorflow_datasets as tfds

from longview.data.columns import Boxes, ClassMap, Pixels
from longview.data.decoding import decode
from longview.data.images import CenterCrop, Pad, PadCrop, RandomResizedCrop, Resize
from longview.input_pipeline import Images
from tests.data.folder import data_dir
from tests.data.painted import SIZES, painted, record_set, scenes
from tests.data.pictures import jpeg, numbers, png
from tests.data.streams import evaluation, first

NONE = np.zeros(0)


@pytest.mark.parametrize(
    'crop',
    [Resize(), CenterCrop(), PadCrop(flip=True), RandomResizedCrop(), Pad(), RandomResizedCrop(scaled_decode=True)],
)
@pytest.mark.parametrize('size', [(10, 24), (24, 10)])
def test_every_crop_makes_frames_that_are_no_squares(crop, size):
    draws = np.random.default_rng(0).random((4, 23))
    for data in (numbers('uint8', 30, 40, 3), numbers('float32', 40, 30, 3), jpeg(300, 200)):
        image = crop.read(data, size, 3, draws[0])
        assert image.shape == (*size, 3)
        moved = crop.adjust(np.stack([image] * 4), draws[:, : crop.draws])
        assert moved.shape == (4, *size, 3) and moved.dtype == image.dtype


def test_a_side_is_the_size_of_a_square():
    image, draws = numbers('uint8', 30, 40, 3), np.random.default_rng(0).random(23)
    for crop in (Resize(), CenterCrop(), PadCrop(), RandomResizedCrop(), Pad()):
        chex.assert_trees_all_equal(crop.read(image, 12, 3, draws), crop.read(image, (12, 12), 3, draws))


def test_a_central_crop_keeps_the_shape_of_what_it_shows():
    """Of a ramp, whose values are their places, it shows as much of a pixel in both directions, from the middle."""
    ramp = np.stack(np.mgrid[:60, :200], -1).astype(np.float32) + 0.5
    for size in ((20, 40), (30, 20), (10, 80)):
        seen = CenterCrop(fraction=0.8, interpolation='bilinear').read(ramp, size, 2, NONE)
        steps = np.array([np.diff(seen[1:-1, 3, 0]).mean(), np.diff(seen[3, 1:-1, 1]).mean()])
        assert steps[0] == pytest.approx(steps[1], rel=0.05)
        assert min(np.array(ramp.shape[:2]) / steps / size) == pytest.approx(1 / 0.8, rel=0.05)
        np.testing.assert_allclose(seen.mean((0, 1)), (30, 100), atol=2)
    with pytest.raises(ValueError, match='fraction=1.5 is no part of an image: use one above 0, up to 1'):
        CenterCrop(fraction=1.5)


COLUMNS = {
    'image': Pixels(),
    'map': ClassMap(),
    'coarse': ClassMap(feature='map', stride=8),
    'boxes': Boxes(3, 'objects/bbox', 'objects/label'),
}


def padded(**fields) -> Images:
    fields = {'columns': COLUMNS, 'image_size': (64, 96), 'eval_crop': Pad()} | fields
    return Images(painted('uint8'), data_dir(), **fields)


def test_a_padded_image_keeps_its_pixels_and_says_where_it_is():
    """All but one of the scenes fit into 64 x 96: the batch has one shape, and no pixel of them is another."""
    data = padded(train_crop=Pad(flip=True))
    data.check()
    (batch,) = evaluation(data, len(SIZES))
    stored = [decode(example['image'], 3) for example in data._eval._source]
    for row, ((classes, rectangles), (height, width)) in enumerate(zip(scenes(), SIZES)):
        inside = np.zeros((64, 96), bool)
        inside[:height, :width] = True
        chex.assert_trees_all_equal(batch['image_valid'][row], inside)
        chex.assert_trees_all_equal(batch['image'][row, :height, :width], stored[row])
        chex.assert_trees_all_equal(batch['map'][row, :height, :width], classes.astype(np.int32))
        assert not batch['image'][row][~inside].any() and (batch['map'][row][~inside] == 255).all()
        np.testing.assert_allclose(batch['boxes'][row], np.array(rectangles, np.float32), atol=1e-4)
    assert batch['coarse'].shape == (len(SIZES), 8, 12)
    assert {'image_valid'} < set(data.batch_spec(2)) == set(first(data, 1, 2)[0])


def test_half_of_them_may_be_mirrored_in_their_corner():
    data = padded(train_crop=Pad(flip=True))
    (batch,) = first(data, 1, 4 * len(SIZES), seed=1)
    (plain,) = evaluation(data, len(SIZES))
    mirrored = 0
    for image, valid, index in zip(batch['image'], batch['image_valid'], batch['index']):
        chex.assert_trees_all_equal(valid, plain['image_valid'][index])
        (height, width), want = SIZES[index], plain['image'][index]
        if (image != want).any():
            mirrored += 1
            chex.assert_trees_all_equal(image[:height, :width], want[:height, :width][:, ::-1])
    assert 8 <= mirrored <= 24


def test_what_does_not_fit_is_made_smaller_in_its_shape_or_refused():
    frame, crop = (20, 30), Pad(interpolation='nearest')
    for shape, want in (((40, 40), (20, 20)), ((20, 45), (13, 30)), ((33, 47), (20, 28)), ((10, 30), (10, 30))):
        geometry = crop.geometry(shape, frame, NONE)
        assert geometry.resized == want and geometry.valid().sum() == np.prod(want)
    enlarged = Pad(enlarge=True).geometry((5, 5), frame, NONE)
    assert enlarged.resized == (20, 20)
    assert Pad().geometry((4, 4000), frame, NONE).resized == (1, 30)
    with pytest.raises(ValueError, match='its image is 40 x 30 and image_size 32 x 96, and shrink is False'):
        padded(image_size=(32, 96), eval_crop=Pad(shrink=False), in_memory=False)._eval.read(1, NONE)


def test_both_splits_have_the_mask_where_one_is_padded():
    data = padded(train_crop=PadCrop(padding=4), columns={'image': Pixels()})
    (train,), (evaluated,) = first(data, 1, 8), evaluation(data, 8)
    assert not evaluated['image_valid'].all()
    assert not train['image_valid'].all() and not train['image'][~train['image_valid']].any()
    assert set(data.batch_spec(8)) | {'mask'} == set(data.batch_spec(8, train=False)) == set(evaluated)


def test_a_size_that_is_lacking_or_does_not_divide_is_refused():
    data = Images(painted('uint8'), data_dir(), columns={'image': Pixels(), 'map': ClassMap()})
    with pytest.raises(ValueError, match='are stored as None x None .None: it varies.; set image_size'):
        data.check()
    with pytest.raises(
        ValueError, match='has the stride 5, which does not divide images of 64 x 96: choose an image_s'
    ):
        padded(columns={'image': Pixels(), 'map': ClassMap(stride=5)}).check()
    with pytest.raises(ValueError, match='The size .0, 3. of images is neither the side of a square nor'):
        padded(image_size=(0, 3)).check()


def test_a_target_twice_as_large_shows_the_same_region():
    """Super-resolution: what is stored twice as large, pixel for pixel, is finished so, wherever the image moves."""
    small = numbers('uint8', 4, 12, 16, 1)
    large = small.repeat(2, 1).repeat(2, 2)
    files = tfds.features.Image(shape=(None, None, 1), encoding_format='png')
    rows = [{'image': png(a), 'target': png(b)} for a, b in zip(small, large)]
    name = record_set('twice', {'image': files, 'target': files}, rows)
    columns = {'image': Pixels(), 'target': Pixels(scale=2)}
    for crop in (Resize(), PadCrop(padding=3, flip=True), Pad(flip=True), CenterCrop(fraction=1.0)):
        data = Images(name, data_dir(), image_size=(12, 16), train_crop=crop, columns=columns)
        (batch,) = first(data, 1, 16, seed=2)
        assert data.batch_spec(16)['target'].shape == (16, 24, 32, 1)
        chex.assert_trees_all_equal(batch['target'], batch['image'].repeat(2, 1).repeat(2, 2))


class Foreign:
    """A crop that does not say its geometry."""

    draws, keyed_read = 0, False

    def read(self, data, size, channels, draws): ...

    def adjust(self, images, draws): ...


def test_a_mask_needs_a_crop_that_says_its_geometry():
    with pytest.raises(ValueError, match='image_valid says where the image is, and .* does not: make it a Crop'):
        padded(train_crop=Foreign(), columns={'image': Pixels()}).check()


def test_the_size_of_the_set_serves_where_it_is_fixed():
    features = {
        'image': tfds.features.Image(shape=(6, 9, 3), encoding_format='png'),
        'label': tfds.features.ClassLabel(num_classes=2),
    }
    image = numbers('uint8', 6, 9, 3)
    data = Images(record_set('oblong', features, [{'image': png(image), 'label': 1}]), data_dir())
    assert data.image_shape == (6, 9, 3)
    (batch,) = evaluation(data, 1)
    chex.assert_trees_all_equal(batch['image'][0], image)

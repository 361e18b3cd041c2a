"""One geometry for all of an example: maps equal the image, boxes bound their rectangles, under every crop."""

import dataclasses

import chex
import numpy as np
import pytest

from longview.data.columns import Boxes, ClassMap, Origin, Pixels, Points
from longview.data.geometry import Geometry
from longview.data.images import CenterCrop, Pad, PadCrop, RandomResizedCrop, Resize
from longview.input_pipeline import Images
from tests.data.folder import data_dir
from tests.data.painted import CLASSES, SIZES, STEP, painted
from tests.data.painted import scenes as stored_scenes
from tests.data.streams import evaluation, first

COLUMNS = {
    'image': Pixels(),
    'map': ClassMap(),
    'coarse': ClassMap(feature='map', stride=4),
    'again': Pixels(feature='image', interpolation='nearest'),
    'boxes': Boxes(at_most=5, feature='objects/bbox', label='objects/label'),
    'corners': Points(at_most=4, coordinates='pixels'),
    'origin': Origin(),
}
CROPS = {
    'resize': Resize('nearest'),
    'center': CenterCrop(interpolation='nearest'),
    'pad': Pad(interpolation='nearest'),
    'pad, enlarged and flipped': Pad(enlarge=True, flip=True, interpolation='nearest'),
    'shift and flip': PadCrop(padding=6, flip=True, interpolation='nearest'),
    'random': RandomResizedCrop(area=(0.2, 1.0), interpolation='nearest'),
}


def scenes(dtype: str = 'uint8', **fields) -> Images:
    """The painted scenes on frames of 24 x 32."""
    fields = {'columns': COLUMNS, 'image_size': (24, 32)} | fields
    return Images(painted(dtype), data_dir(), **fields)


def batch_of(images: Images, epochs: int = 3) -> dict[str, np.ndarray]:
    """Some epochs, for as many draws of each scene."""
    return first(images, 1, epochs * len(SIZES), seed=5)[0]


@pytest.mark.parametrize('crop', CROPS)
def test_maps_and_other_images_are_where_the_image_is_in_every_type(crop):
    maps = {}
    for dtype in ('uint8', 'uint16', 'float32'):
        batch = batch_of(scenes(dtype, train_crop=CROPS[crop]))
        image, classes = batch['image'], batch['map']
        assert (image.dtype, classes.dtype, image.shape, classes.shape) == (
            dtype,
            'int32',
            (24, 24, 32, 3),
            (24, 24, 32),
        )
        outside = classes == 255
        chex.assert_trees_all_equal(image[..., 0], np.where(outside, 0, classes * STEP).astype(dtype))
        assert outside.any() == (crop in ('pad', 'pad, enlarged and flipped', 'shift and flip'))
        assert set(classes[~outside]) == set(range(CLASSES))
        chex.assert_trees_all_equal(batch['again'], image)
        chex.assert_trees_all_equal(batch['coarse'], classes[:, 2::4, 2::4])
        if 'image_valid' in batch:
            chex.assert_trees_all_equal(batch['image_valid'], ~outside)
        maps[dtype] = classes
    chex.assert_trees_all_equal(maps['uint8'], maps['uint16'], maps['float32'])


def extent(mask: np.ndarray) -> np.ndarray:
    """(y0, x0, y1, x1) of what is true."""
    y, x = np.nonzero(mask)
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])


@pytest.mark.parametrize('crop', CROPS)
def test_a_box_bounds_its_rectangle(crop):
    batch = batch_of(scenes(train_crop=CROPS[crop]))
    valid, seen = batch['boxes_valid'], 0
    assert batch['boxes'].dtype == np.float32 and batch['boxes'].shape == (24, 5, 4)
    for row in range(len(valid)):
        boxes, labels = batch['boxes'][row][valid[row]], batch['boxes_label'][row][valid[row]]
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        for box, label in zip(boxes, labels):
            # A pixel shows what is at its middle, so an edge may be half a pixel off.
            painted_here = extent(batch['map'][row] == label)
            assert np.abs(box - painted_here).max() <= 0.51, (row, label)
            seen += 1
        for label in set(range(1, CLASSES)) - set(labels.tolist()):
            here = batch['map'][row] == label
            assert not here.any() or min(extent(here)[2:] - extent(here)[:2]) <= 1
    assert seen > 40 and not valid[:, 3:].any()
    assert not batch['boxes'][~valid].any() and not batch['boxes_label'][~valid].any()


@pytest.mark.parametrize('crop', CROPS)
def test_points_move_as_the_boxes_do(crop):
    """The upper left corner of a rectangle, or the upper right one of a mirrored scene, is a corner of its box."""
    batch = batch_of(scenes(train_crop=CROPS[crop]))
    both = batch['boxes_valid'][:, :4] & batch['corners_valid']
    boxes, points = batch['boxes'][:, :4][both], batch['corners'][both]
    assert len(points) > 20
    np.testing.assert_allclose(boxes[:, 0], points[:, 0], atol=1e-5)
    sides = np.abs(boxes[:, 1::2] - points[:, 1:]) < 1e-4
    assert sides.any(axis=1).all() and sides[:, 1].any() == CROPS[crop].mirrors
    assert not batch['corners'][~batch['corners_valid']].any()


@pytest.mark.parametrize('crop', CROPS)
def test_places_are_taken_back_to_the_stored_image(crop):
    batch, seen = batch_of(scenes(train_crop=CROPS[crop])), 0
    start, end = np.split(batch['origin'].astype(np.float64), 2, axis=-1)
    back = start[:, None] + batch['corners'] / (24, 32) * (end - start)[:, None]
    for row, index in enumerate(batch['index'].tolist()):
        stored = np.array([rectangle[:2] for rectangle in stored_scenes()[index][1]])
        valid = batch['corners_valid'][row][:3]
        np.testing.assert_allclose(back[row, :3][valid], stored[valid], atol=1e-3)
        seen += valid.sum()
    assert seen > 30 and (start[:, 1] > end[:, 1]).any() == CROPS[crop].mirrors


@pytest.mark.parametrize('crop', ['resize', 'center', 'pad', 'shift and flip'])
def test_in_memory_and_streamed_are_the_same_to_the_bit(crop):
    kept, streamed = (scenes(train_crop=CROPS[crop], eval_crop=Resize(), in_memory=kept) for kept in (True, False))
    chex.assert_trees_all_equal(batch_of(kept), batch_of(streamed))
    chex.assert_trees_all_equal(evaluation(kept, 8), evaluation(streamed, 8))


def test_a_map_or_a_box_beside_it_moves_no_pixel_of_the_image():
    for crop in (CROPS['random'], RandomResizedCrop(), CenterCrop(), PadCrop(flip=True)):
        alone = batch_of(scenes(train_crop=crop, columns={'image': Pixels()}))
        chex.assert_trees_all_equal(alone['image'], batch_of(scenes(train_crop=crop))['image'])


def test_boxes_below_a_size_are_not_valid():
    small, large = (
        batch_of(scenes(columns={'image': Pixels(), 'boxes': Boxes(5, 'objects/bbox', smallest=size)}))
        for size in (0.0, 6.0)
    )
    boxes = small['boxes']
    want = small['boxes_valid'] & ((boxes[..., 2:] - boxes[..., :2]) >= 6).all(-1)
    chex.assert_trees_all_equal(large['boxes_valid'], want)
    assert 0 < want.sum() < small['boxes_valid'].sum()


@pytest.mark.parametrize('mirror', [False, True])
def test_a_window_at_another_scale_is_the_same_region(mirror):
    """Ramps, whose values are their places: what is stored larger, and finished larger, shows the same place."""
    place = lambda height, width: np.stack(np.mgrid[:height, :width], -1).astype(np.float32) + 0.5
    geometry = Geometry((30, 40), (3, 5, 12, 16), (24, 32), (20, 28), (2, 1), mirror)
    image = geometry.nearest(place(30, 40))
    large = geometry.of_stored(90, 120).times(2).nearest(place(90, 120)) / 3
    assert large.shape == (40, 56, 2)
    middle = (large[::2, ::2] + large[1::2, 1::2]) / 2
    assert np.abs(middle - image).max() < 0.75
    small = geometry.of_stored(15, 20).nearest(place(15, 20)) * 2
    assert small.shape == (20, 28, 2) and np.abs(small - image).max() <= 1.5
    with pytest.raises(ValueError, match='is stored as 30 x 41 and its image as 30 x 40, wanted that size'):
        geometry.of_stored(30, 41)


def test_points_and_pixels_agree_whatever_the_geometry():
    """The place that a finished pixel was taken from maps to that pixel."""
    rng = np.random.default_rng(0)
    place = np.stack(np.mgrid[:50, :70], -1).astype(np.float64) + 0.5
    for _ in range(200):
        top, left = rng.integers(0, 20, 2).tolist()
        height, width = rng.integers(5, 30, 2).tolist()
        resized, size = rng.integers(4, 60, 2).tolist(), rng.integers(4, 40, 2).tolist()
        offset = rng.integers(-5, 6, 2).tolist()
        geometry = Geometry(
            (50, 70), (top, left, height, width), (*resized,), (*size,), (*offset,), bool(rng.integers(2))
        )
        taken, valid = geometry.nearest(place, -1.0), geometry.valid()
        assert (valid == (taken[..., 0] >= 0)).all()
        wanted = np.stack(np.nonzero(valid), -1) + 0.5
        # Half a stored pixel, as large as it is in the finished image, or half a finished one.
        tolerance = np.maximum(np.array(resized) / (height, width), 1) / 2 + 1e-6
        assert (np.abs(geometry.points(taken[valid]) - wanted) <= tolerance).all()
        low, high = geometry.shown()
        assert valid.sum() == np.prod(np.maximum(high - low, 0))


def test_an_epoch_draws_anew_and_a_process_makes_its_own_rows_alone():
    images = scenes(train_crop=CROPS['random'])
    whole = first(images, 1, 24, seed=5)[0]
    own = np.array([3, 7, 20])
    part = first(images, 1, 24, seed=5, own=own)[0]
    chex.assert_trees_all_equal(part, {name: x[own] for name, x in whole.items()})
    again = [whole['map'][whole['index'] == number] for number in range(len(SIZES))]
    assert np.mean([(rows[0] != rows[1]).any() for rows in again]) > 0.7


def test_crops_say_what_they_do():
    cuts = {name: crop.cuts for name, crop in CROPS.items()}
    assert cuts == {name: name in ('center', 'shift and flip', 'random') for name in CROPS}
    assert not PadCrop(padding=0).cuts and not dataclasses.replace(CROPS['random'], flip=False).mirrors

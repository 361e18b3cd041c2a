"""Segmentation and detection: the equations recomputed, what is left out, microbatches, averages, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from longview.methods.dense import boxes as bx
from longview.methods.dense import detect, drawing
from longview.methods.dense.detect import Detect
from longview.methods.dense.segment import Segment, pixel_cross_entropy
from longview.methods.ema import Ema
from longview.methods.figures import detection
from longview.methods.figures.detection import iou
from longview.methods.task import chain, init_state, make_step
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Linear
from longview.modelzoo.heads.detect import Fcos
from longview.modelzoo.heads.segment import MlpDecoder, PixelLinear
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.dense.fpn import bilinear, nearest
from longview.modelzoo.pixels import Pixels
from tests.methods.small import BACKBONES
from tests.modelzoo import tiny

RNG = jax.random.key(0)
DRAWS = np.random.default_rng(0)


class Halving(ft.PyramidBackbone):
    """Two convolutions, each of stride 2."""

    strides, channels, layers = (2, 4), (4, 8), (('conv0',), ('conv1',))

    @nn.compact
    def __call__(self, x, *, train=False):
        fine = nn.relu(Conv(4, 2, 2, 0, name='conv0')(x))
        coarse = nn.relu(Conv(8, 2, 2, 0, name='conv1')(fine))
        return {'stage0': fine, 'stage1': coarse, 'map': coarse, 'pooled': coarse.mean(axis=(1, 2))}


def batch_of(size=8):
    draws = np.random.default_rng(1)
    corner = draws.integers(0, 8, (size, 3, 2))
    boxes = np.concatenate([corner, corner + draws.integers(4, 9, corner.shape)], axis=-1).astype(np.float32)
    made = {
        'image': draws.normal(size=(size, 16, 16, 1)).astype(np.float32),
        'map': draws.integers(-1, 4, (size, 8, 8), dtype=np.int32),
        'boxes': boxes,
        'boxes_valid': np.arange(3)[None] < draws.integers(0, 4, (size, 1)),
        'boxes_label': draws.integers(0, 3, (size, 3), dtype=np.int32),
        'epoch': np.zeros(size, np.int32),
        'index': np.arange(size, dtype=np.int32),
    }
    return jax.tree.map(jnp.asarray, made)


BATCH = batch_of()
TASKS = {
    'segment': Segment(Halving(), MlpDecoder(4, width=6)),
    'detect': Detect(Halving(), Fcos(3, width=4, convs=1, groups=2), reach=2.0, candidates=20, detections=6),
}


def test_the_loss_of_a_pixel_is_its_cross_entropy_and_each_example_counts_alike():
    logits = DRAWS.normal(size=(3, 4, 4, 5)).astype(np.float32)
    label = DRAWS.integers(0, 5, (3, 4, 4)).astype(np.int32)
    counts = DRAWS.random((3, 4, 4)) < np.asarray([0.9, 0.3, 0.0])[:, None, None]
    told = -np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
    told = np.take_along_axis(told, label[..., None], axis=-1)[..., 0]
    wanted = [told[i][counts[i]].mean() if counts[i].any() else 0 for i in range(3)]
    losses, gradient = jax.device_get(
        tiny.jit(jax.value_and_grad(lambda *given: pixel_cross_entropy(*given).mean()))(logits, label, counts)
    )
    np.testing.assert_allclose(losses, np.mean(wanted), rtol=1e-5)
    np.testing.assert_array_equal(gradient.any(axis=-1), counts)


def test_what_is_ignored_changes_neither_loss_nor_figures_and_logits_take_the_maps_size():
    task = Segment(Halving(), MlpDecoder(4, width=6), ignore=2)
    seen = BATCH | {'map': DRAWS.integers(0, 4, (8, 16, 16), dtype=np.int32), 'mask': np.arange(8) < 6}
    truth, counts = seen['map'][:6], seen['map'][:6] != 2

    @tiny.jit
    def run(batch):
        v = task.init(RNG, BATCH)
        return task.score(v, batch), task.measure(v, batch, None, RNG), task.predict(v, batch)['logits']

    score, sums, logits = jax.device_get(run(seen))
    other = seen | {'map': np.where(seen['map'] == 2, 255, seen['map'])}
    chex.assert_trees_all_equal(jax.device_get(run(other))[:2], (score, sums))
    large = np.asarray(tiny.jit(lambda x: jax.image.resize(x, (8, 16, 16, 4), 'bilinear'))(logits))
    predicted, figures = large.argmax(axis=-1)[:6], task.figures(sums, {})
    assert figures['pixel_accuracy'] == pytest.approx((predicted == truth)[counts].mean())
    ones = (predicted == 1)[counts], (truth == 1)[counts]
    assert figures['iou_1'] == pytest.approx((ones[0] & ones[1]).sum() / (ones[0] | ones[1]).sum())
    assert figures['loss'] == pytest.approx(score['loss'][:6].mean(), rel=1e-5)


@pytest.mark.parametrize('name', TASKS)
def test_microbatches_change_no_number_under_averages_and_figures_are_named_at_the_start(name):
    task, tx = Ema(TASKS[name], 0.9), optax.sgd(0.1)
    seen = BATCH | {'row': jnp.arange(8), 'mask': jnp.arange(8) < 7}

    @tiny.jit
    def run():
        first = init_state(task, tx, RNG, BATCH, chain(()))
        ends = [make_step(task, tx, transform=chain(()), accumulate=parts)(first, BATCH, RNG)[0] for parts in (1, 4)]
        v = ends[0].variables
        plain = {key: column for key, column in seen.items() if key != 'mask'}
        return first, ends, task.measure(v, seen, None, RNG), task.rows(v, plain, None)

    first, (whole, parts), sums, rows = jax.device_get(run())
    assert int(whole.bad_step) == -1
    chex.assert_trees_all_close(whole.variables, parts.variables, rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, first.variables.params, whole.variables.params)
    assert all(jax.tree.leaves(moved)), moved
    figures = task.figures(sums, {key: row[:7] for key, row in rows.items()})
    nothing = jax.tree.map(np.zeros_like, (sums, {key: row[:0] for key, row in rows.items()}))
    assert list(task.figures(*nothing)) == list(figures)
    wanted = {'segment': {'mean_iou', 'pixel_accuracy', 'iou_3', 'loss'}, 'detect': {'ap', 'ap50', 'loss'}}[name]
    assert wanted | {f'raw_{key}' for key in wanted} <= set(figures)
    pictures = jax.eval_shape(task.pictures, whole.variables, BATCH)
    assert pictures and {p.shape for p in pictures.values()} == {(8, 128, 128, 3)}
    depths = {task.depth_of(path) for path in ('backbone/conv0/kernel', 'backbone/conv1/kernel', 'head/x')}
    assert depths == {(0, 2), (1, 2)}


def test_distances_to_the_sides_are_inverted_and_the_middle_is_central():
    place, box = np.float32([[3, 4], [2.5, 1]]), np.float32([[1, 2, 9, 8], [0, 0, 5, 2]])

    @tiny.jit
    def run(place, box):
        sides = bx.distances(place, box)
        slope = jax.grad(lambda x: bx.centreness(x).sum())(jnp.zeros((2, 4)))
        return sides, bx.from_distances(place, sides), bx.centreness(jnp.concatenate([sides, -sides])), slope

    sides, back, central, slope = jax.device_get(run(place, box))
    np.testing.assert_array_equal(sides, [[2, 2, 6, 4], [2.5, 1, 2.5, 1]])
    np.testing.assert_array_equal(back, box)
    np.testing.assert_allclose(central, [np.sqrt(2 / 6 * 2 / 4), 1, 0, 0], rtol=1e-6)
    assert np.isfinite(slope).all()


def test_places_are_the_middles_of_their_pixels_level_by_level():
    at = detect.places_of([(2, 3), (1, 1)], [4, 8], 2.0)
    wanted = [[2, 2], [2, 6], [2, 10], [6, 2], [6, 6], [6, 10], [4, 4]]
    np.testing.assert_array_equal(at.centre, wanted)
    np.testing.assert_array_equal(at.low, [0] * 6 + [8])
    np.testing.assert_array_equal(at.high, [8] * 6 + [np.inf])


def test_a_place_answers_for_the_smallest_box_around_it_that_its_level_has_and_whose_middle_is_near():
    at = detect.places_of([(8, 8), (4, 4)], [4, 8], 2.0)
    corner = DRAWS.uniform(0, 20, (6, 2))
    boxes = np.concatenate([corner, corner + DRAWS.uniform(4, 24, (6, 2))], axis=1).astype(np.float32)
    valid = np.arange(6) != 2
    wanted = []
    for (y, x), stride, low, high in zip(*map(np.asarray, at)):
        able = []
        for n, (y0, x0, y1, x1) in enumerate(boxes):
            sides = (y - y0, x - x0, y1 - y, x1 - x)
            near = max(abs(y - (y0 + y1) / 2), abs(x - (x0 + x1) / 2)) < 1.5 * stride
            if valid[n] and near and min(sides) > 0 and low < max(sides) < high:
                able.append(((y1 - y0) * (x1 - x0), n))
        wanted.append(min(able)[1] if able else -1)
    np.testing.assert_array_equal(tiny.jit(bx.answering)(*at, boxes, valid), wanted)
    assert len(set(wanted)) > 4 and np.asarray(wanted)[:64].max() >= 0 and np.asarray(wanted)[64:].max() >= 0


def matched(at, boxes, valid):
    each = lambda boxes, valid: bx.answering(*at, boxes, valid)
    return np.asarray(tiny.jit(jax.vmap(each))(boxes, valid))


def test_the_losses_of_detection_are_those_of_the_paper():
    at = detect.places_of([(4, 4)], [4], 8.0)
    classes, raw, centre = (DRAWS.normal(size=(2, 16, n)).astype(np.float32) for n in (3, 4, 1))
    answers = detect.Answers(classes, np.abs(raw) * 4, centre[..., 0])
    boxes = np.float32([[[1, 2, 11, 14], [8, 8, 15, 15]], [[0, 0, 0, 0], [4, 0, 12, 9]]])
    label, valid = np.int32([[2, 0], [1, 1]]), np.asarray([[True, True], [False, True]])
    match = matched(at, boxes, valid)
    sums, answering = jax.device_get(tiny.jit(detect.losses)(answers, at, match, boxes, label))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    for i in range(2):
        positive = match[i] >= 0
        assert answering[i] == positive.sum() > 0
        target = np.zeros((16, 3))
        target[positive, label[i][match[i][positive]]] = 1
        p = np.where(target == 1, sigmoid(classes[i]), 1 - sigmoid(classes[i]))
        focal = np.where(target == 1, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)
        np.testing.assert_allclose(sums['classes'][i], focal.sum(), rtol=1e-5)
        overlap, central = 0, 0
        for place in np.flatnonzero(positive):
            (y, x), box, sides = np.asarray(at.centre)[place], boxes[i, match[i, place]], answers.sides[i, place]
            guess = np.float64([y - sides[0], x - sides[1], y + sides[2], x + sides[3]])
            both = np.stack([guess, box])
            hull = np.prod(both[:, 2:].max(axis=0) - both[:, :2].min(axis=0))
            shared = np.prod(np.maximum(both[:, 2:].min(axis=0) - both[:, :2].max(axis=0), 0))
            union = np.prod(both[:, 2:] - both[:, :2], axis=1).sum() - shared
            overlap += 1 - (shared / union - (hull - union) / hull)
            top, left, bottom, right = y - box[0], x - box[1], box[2] - y, box[3] - x
            wanted = np.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            q = sigmoid(centre[i, place, 0])
            central -= wanted * np.log(q) + (1 - wanted) * np.log(1 - q)
        np.testing.assert_allclose([sums['sides'][i], sums['centre'][i]], [overlap, central], rtol=1e-4)


def test_suppression_keeps_the_best_of_those_that_overlap_class_by_class():
    corner = DRAWS.uniform(0, 20, (30, 2))
    boxes = np.concatenate([corner, corner + DRAWS.uniform(6, 12, (30, 2))], axis=1).astype(np.float32)
    score, label = DRAWS.random(30).astype(np.float32), DRAWS.integers(0, 2, 30).astype(np.int32)
    wanted = []
    for n in np.argsort(-score):
        rivals = [m for m in wanted if label[m] == label[n] and iou(boxes[[n]], boxes[[m]])[0, 0] > 0.3]
        wanted += [] if rivals else [n]
    kept = np.asarray(tiny.jit(lambda *given: bx.kept(*given, 0.3))(boxes, score, label))
    np.testing.assert_array_equal(np.flatnonzero(kept), sorted(wanted))
    assert 5 < kept.sum() < 25


def test_known_peaks_are_decoded_and_all_is_found():
    """A head that says the truth at the places that answer for it."""
    task, boxes, label = TASKS['detect'], np.zeros((4, 3, 4), np.float32), np.asarray(BATCH['boxes_label'][:4])
    valid = np.zeros((4, 3), bool)
    valid[:3, 0] = valid[1, 1] = True
    boxes[:3, 0] = [[1, 2, 9, 7], [0, 0, 7, 6], [3, 3, 14, 15]]
    boxes[1, 1] = [8, 9, 15, 16]
    at = detect.places_of([(8, 8), (4, 4)], [2, 4], task.reach)
    match = matched(at, boxes, valid)
    classes = np.full((4, 80, 3), -9, np.float32)
    sides, centre = np.ones((4, 80, 4), np.float32), np.full((4, 80), -9, np.float32)
    for i, place in zip(*np.nonzero(match >= 0)):
        n, middle = match[i, place], np.asarray(at.centre)[place]
        classes[i, place, label[i, n]] = 9
        sides[i, place] = np.concatenate([middle - boxes[i, n, :2], boxes[i, n, 2:] - middle])
        centre[i, place] = 9
    decode = jax.vmap(lambda answers: task._decode(answers, at, (16, 16)))
    found = jax.device_get(tiny.jit(decode)(detect.Answers(classes, sides, centre)))
    assert found['boxes'].shape == (4, 6, 4) and (np.diff(found['score'], axis=1) <= 0).all()
    np.testing.assert_array_equal(found['valid'], found['score'] > 0)
    np.testing.assert_array_equal(found['valid'].sum(axis=1), valid.sum(axis=1))
    rows = {f'found_{name}': found[name] for name in detection.Detections._fields}
    rows |= {'true_boxes': boxes, 'true_label': label, 'true_valid': valid}
    figures = task.figures({'loss': np.zeros(()), 'weight': np.ones(())}, rows)
    assert figures['ap'] == figures['ap50'] == 1


def test_maps_are_resized_as_torch_does():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    row = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    run = tiny.jit(lambda x, row: (nearest(x, (3, 4)), bilinear(x, (2, 6)), bilinear(row, (1, 2))))
    near, fine, coarse = jax.device_get(run(x, row))
    np.testing.assert_array_equal(near[0, ..., 0], x[0, [0, 0, 1]][:, [0, 0, 1, 2], 0])
    np.testing.assert_allclose(fine[0, 0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
    np.testing.assert_allclose(coarse[0, 0, :, 0], [1.5, 5.5], atol=1e-6)


def test_pictures_show_classes_in_colours_and_outlines():
    np.testing.assert_allclose(drawing.palette(4) * 255, [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])
    image = np.zeros((1, 64, 64, 3), np.float32)
    boxes, label = np.float32([[[8, 16, 24, 40], [0, 0, 9, 9]]]), np.int32([[1, 0]])
    valid, classes = np.asarray([[True, False]]), np.int32([[[0, 2, -1, 255]]])
    run = tiny.jit(lambda classes, *given: (drawing.coloured(classes, 3), drawing.boxed(*given, 2)))
    shown, drawn = (255 * found for found in jax.device_get(run(classes, image, boxes, label, valid)))
    np.testing.assert_allclose(shown[0, 0], [[0, 0, 0], [0, 128, 0], [255] * 3, [255] * 3])
    drawn = drawn[0, ..., 1]
    rows, columns = np.nonzero(drawn)
    assert drawn.shape == (128, 128) and drawn.max() == 128
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (16, 32, 48, 80)
    assert np.count_nonzero(drawn) == 2 * (32 + 48) - 4


def shapes(task, batch):
    return jax.eval_shape(task.init, RNG, batch)


def without(*names):
    return {name: column for name, column in BATCH.items() if name not in names}


TOKENS = BACKBONES['tokens']


@pytest.mark.parametrize(
    'make, error, words',
    [
        (lambda: Segment(Halving()), ValueError, 'a backbone without a head'),
        (lambda: Segment(Halving(), Linear(3)), TypeError, 'the head Linear, which gives no map'),
        (lambda: Segment(TOKENS, MlpDecoder(3)), TypeError, 'Segment with MlpDecoder needs a PyramidBackbone'),
        (lambda: Detect(TOKENS, Fcos(3)), TypeError, 'Detect with Fcos needs a PyramidBackbone'),
        (lambda: Detect(Halving(), MlpDecoder(3)), TypeError, 'MlpDecoder, which gives no boxes'),
        (lambda: Detect(Halving(), Fcos(3), candidates=5, detections=6), ValueError, '6 detections of 5 candidates'),
        (lambda: shapes(TASKS['segment'], without('map')), ValueError, 'Segment learns from map, and the batch has'),
        (
            lambda: shapes(TASKS['segment'], BATCH | {'map': BATCH['image']}),
            ValueError,
            r'16, 1\), and Segment wants \(B, h, w\)',
        ),
        (
            lambda: shapes(TASKS['detect'], BATCH | {'boxes_label': BATCH['boxes_label'][:, :2]}),
            ValueError,
            r'boxes_label has shape \(8, 2\), and Detect wants \(B, N\), B is 8, N is 3',
        ),
        (lambda: shapes(TASKS['detect'], without('boxes', 'boxes_label')), ValueError, 'from boxes, boxes_label, and'),
        (lambda: shapes(TASKS['segment'], without('image')), ValueError, 'Halving reads image'),
        (
            lambda: shapes(Segment(Halving(), MlpDecoder(3, stages=(0, 2))), BATCH),
            ValueError,
            r'MlpDecoder reads the stages \(0, 2\), and the backbone has 2',
        ),
        (lambda: PixelLinear(3).init(RNG, {'tokens': jnp.zeros((1, 4, 2))}), ValueError, "reads 'map', and the"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize('backbone', [Pixels(), TOKENS], ids=['pixels', 'tokens'])
def test_a_map_alone_is_enough_for_a_linear_head(backbone):
    task = Segment(backbone, PixelLinear(4))
    batch = BATCH | {'image': BATCH['image'][:, :8, :8]}
    v = shapes(task, batch)
    assert v.params['head']['classes']['kernel'].shape[1] == 4
    losses = jax.eval_shape(task.loss, v, batch | {'row': np.arange(8)}, RNG, 0)
    assert losses[0].shape == () and task.depth_of('head/classes/kernel')[0] == task.depth_of('head/x')[1] - 1

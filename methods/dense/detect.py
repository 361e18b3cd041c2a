"""Anchor-free detection: each place of a feature pyramid predicts a class and the distances to the sides of its box.

Tian et al., 2019, "FCOS: Fully Convolutional One-Stage Object Detection", https://arxiv.org/abs/1904.01355; reference:
torchvision 0.28.0 (https://github.com/pytorch/vision, BSD-3-Clause), models/detection/fcos.py. The focal loss is that
of Lin et al., 2017, https://arxiv.org/abs/1708.02002, the loss of a box one less its generalized IoU.

The loss of an example is the sum over its places, divided by the number of those that answer for a box, at least 1;
that of a batch is the mean over its examples. So microbatches change no number. The paper and torchvision divide the
sum over the batch by the number in the batch, in which examples with more boxes weigh more.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.dense import boxes as bx
from longview.methods.dense import drawing
from longview.methods.dense.inputs import check_columns, check_network
from longview.methods.figures import detection
from longview.methods.losses import focal
from longview.methods.objective import NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Rows, Sums, Variables

_COLUMNS = {'boxes': 'B N 4', 'boxes_valid': 'B N', 'boxes_label': 'B N'}
_DISTANCES = 5  # with centre-ness, beside the classes


class Answers(NamedTuple):
    """What a head says at all places of a pyramid, one level after the other.

    Attributes:
        classes: logits.
        sides: distances to the top, left, bottom and right side of the box, in pixels.
        centre: logit of centre-ness.
    """

    classes: Float[Array, 'b l k']
    sides: Float[Array, 'b l 4']
    centre: Float[Array, 'b l']


class Places(NamedTuple):
    """The places of a pyramid: constants of a size of images.

    Attributes:
        centre: (y, x) in pixels.
        stride: of their level.
        low, high: between these lies the largest distance of a box that their level answers for, in pixels.
    """

    centre: Float[Array, 'l 2']
    stride: Float[Array, ' l']
    low: Float[Array, ' l']
    high: Float[Array, ' l']


@dataclasses.dataclass(frozen=True)
class Detect(NetworkObjective):
    """Trains ``head(backbone(image))`` on ``boxes`` (B, N, 4), ``boxes_valid`` and ``boxes_label`` (B, N).

    Figures are COCO's twelve, as in methods/figures/detection.py, and ``loss`` with its three parts. `predict` gives
    ``boxes``, ``score``, ``label`` and ``valid`` of `detections` boxes an image, by falling score; what is filled up is
    not valid.

    Attributes:
        backbone, head, network: image -> features, and features -> what `modelzoo.heads.detect.Fcos` gives; see
            `NetworkObjective`.
        reach: the level of stride s answers for boxes whose largest distance is up to `reach` strides and above that of
            the level before; the last one has no bound. 8 is that of the paper, for strides 8 to 128.
        radius: see `boxes.answering`.
        alpha, gamma: of the focal loss.
        least_score: detections below it are none.
        candidates: the best so many pairs of place and class are looked at.
        overlap: of two boxes of a class with a larger IoU, the one with the higher score stays.
        detections: how many boxes an image has at most.
    """

    reach: float = 8.0
    radius: float = 1.5
    alpha: float = 0.25
    gamma: float = 2.0
    least_score: float = 0.05
    candidates: int = 100
    overlap: float = 0.6
    detections: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.model, 'Detect')
        if not hasattr(self.model.head, 'strides'):
            raise TypeError(
                f'Detect has the head {type(self.model.head).__name__}, which gives no boxes: take '
                'modelzoo.heads.detect.Fcos.'
            )
        if not 1 <= self.detections <= self.candidates:
            raise ValueError(
                f'Detect keeps {self.detections} detections of {self.candidates} candidates: keep at least 1, and have '
                'as many candidates.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        check_columns(batch, _COLUMNS, 'Detect')
        weights = self._weights(batch, given)
        return Variables(*forward.init(self.model, rng, *forward.inputs(self.model, batch), weights=weights), {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state, *columns, rng=rng, row=batch['row'])
        parts = {name: values.mean() for name, values in self._parts(features, batch).items()}
        loss, metrics = forward.penalized(parts['loss'], features)
        return loss, (state, {**parts, **metrics})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        columns = forward.inputs(self.model, batch)
        features = forward.answer(self.model, v.params, v.state, *columns)
        answers, at = self._answers(features)
        decode = functools.partial(self._decode, at=at, size=batch['image'].shape[1:3])
        return {**{k: x for k, x in features.items() if k != 'logits'}, **jax.vmap(decode)(answers)}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return self._parts(forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch)), batch)

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        del ready
        found = self.predict(v, batch)
        truth = {'boxes': batch['boxes'], 'label': batch['boxes_label'], 'valid': batch['boxes_valid']}
        found = {f'found_{name}': found[name] for name in detection.Detections._fields}
        return {**found, **{f'true_{name}': column for name, column in truth.items()}}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        found = detection.Detections(*(rows[f'found_{name}'] for name in detection.Detections._fields))
        truth = detection.Truth(rows['true_boxes'], rows['true_label'], rows['true_valid'])
        curves = detection.curves(found, truth, classes=self.model.head.num_classes)
        return {**super().figures(sums, rows), **detection.figures(curves)}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns images with the boxes of the ``truth``, and with detections half as sure as the surest."""
        image, classes = drawing.gray(batch['image']), self.model.head.num_classes
        found = self.predict(v, batch)
        sure = found['valid'] & (found['score'] >= found['score'].max(axis=1, keepdims=True) / 2)
        return {
            'truth': drawing.boxed(image, batch['boxes'], batch['boxes_label'], batch['boxes_valid'], classes),
            'prediction': drawing.boxed(image, found['boxes'], found['label'], sure, classes),
        }

    def _answers(self, features: dict[str, Any]) -> tuple[Answers, Places]:
        levels = features['logits']
        sizes, strides = [level.shape[1:3] for level in levels], self.model.head.strides(self.model.backbone)
        at = places_of(sizes, strides, self.reach)
        flat = jnp.concatenate([level.reshape(len(level), -1, level.shape[-1]) for level in levels], axis=1)
        classes = flat.shape[-1] - _DISTANCES
        sides = flat[..., classes:-1] * at.stride[None, :, None]
        return Answers(flat[..., :classes], sides, flat[..., -1]), at

    def _parts(self, features: dict[str, Any], batch: Batch) -> dict[str, Float[Array, ' b']]:
        answers, at = self._answers(features)
        truth = batch['boxes'], batch['boxes_valid'], batch['boxes_label']
        match = jax.vmap(lambda boxes, valid: bx.answering(*at, boxes, valid, self.radius))(*truth[:2])
        sums, answering = losses(answers, at, match, truth[0], truth[2], alpha=self.alpha, gamma=self.gamma)
        parts = {name: total / jnp.maximum(answering, 1) for name, total in sums.items()}
        return {**parts, 'loss': sum(parts.values())}

    def _decode(self, answers: Answers, at: Places, size: tuple[int, int]) -> dict[str, Array]:
        """Returns the detections of one image: its best candidates, without those that better ones suppress."""
        # The geometric mean of the two probabilities, as in torchvision; the paper's product has the same order.
        score = jnp.sqrt(jax.nn.sigmoid(answers.classes) * jax.nn.sigmoid(answers.centre)[:, None])
        count = min(self.candidates, score.size)
        score, index = jax.lax.top_k(score.ravel(), count)
        place, label = jnp.divmod(index, answers.classes.shape[-1])
        found = bx.from_distances(at.centre[place], answers.sides[place])
        found = jnp.clip(found, 0, jnp.asarray([[*size, *size]], jnp.float32))
        keep = bx.kept(found, score, label, self.overlap) & (score >= self.least_score)
        best, first = jax.lax.top_k(jnp.where(keep, score, -1.0), min(self.detections, count))
        fill = [(0, self.detections - len(first))]
        return {
            'boxes': jnp.pad(found[first], [*fill, (0, 0)]),
            'score': jnp.pad(jnp.maximum(best, 0.0), fill),
            'label': jnp.pad(label[first], fill),
            'valid': jnp.pad(best > 0, fill),
        }


def places_of(sizes: Sequence[tuple[int, int]], strides: Sequence[int], reach: float) -> Places:
    """Returns the places of a pyramid; the sizes of boxes follow from one level to the next without a gap."""
    centre, stride, level = bx.places(sizes, strides)
    bounds = np.asarray([0, *(reach * s for s in strides[:-1]), np.inf], np.float32)
    return Places(*map(jnp.asarray, (centre, stride, bounds[level], bounds[level + 1])))


def losses(
    answers: Answers,
    at: Places,
    match: Int[Array, 'b l'],
    boxes: Float[Array, 'b n 4'],
    label: Int[Array, 'b n'],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[dict[str, Float[Array, ' b']], Int[Array, ' b']]:
    """Returns the sums over the places of each example, and how many places answer for a box.

    They are ``classes``, the focal loss of all places and classes; ``sides``, one less the generalized IoU of each
    place that answers; and ``centre``, the binary cross-entropy of its centre-ness.

    Args:
        answers: of the head.
        at: the places.
        match: the box that each place answers for, or -1.
        boxes, label: of each example.
        alpha, gamma: of the focal loss.
    """
    positive, chosen = match >= 0, jnp.maximum(match, 0)
    wanted = jnp.take_along_axis(boxes, chosen[..., None], axis=1)
    classes = answers.classes.shape[-1]
    of_class = jnp.take_along_axis(label, chosen, axis=1)
    target = jax.nn.one_hot(jnp.where(positive, of_class, classes), classes)
    centre = at.centre[None]
    overlap = bx.generalized_iou(bx.from_distances(centre, answers.sides), wanted)
    central = optax.sigmoid_binary_cross_entropy(answers.centre, bx.centreness(bx.distances(centre, wanted)))
    over = lambda values: jnp.sum(jnp.where(positive, values, 0.0), axis=1)
    sums = {
        'classes': focal(answers.classes, target, alpha=alpha, gamma=gamma).sum(axis=(1, 2)),
        'sides': over(1 - overlap),
        'centre': over(central),
    }
    return sums, positive.sum(axis=1)

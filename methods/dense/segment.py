"""Semantic segmentation with a softmax cross-entropy of each pixel.

Long et al., 2015, "Fully Convolutional Networks for Semantic Segmentation", https://arxiv.org/abs/1411.4038.

The loss of an example is the mean over its pixels that count, and that of a batch the mean over its examples; an
example without such a pixel has the loss 0. So microbatches change no number. mmsegmentation and torch take the mean
over the pixels of the batch, in which examples with more labelled pixels weigh more.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from longview.methods import forward
from longview.methods.dense import drawing
from longview.methods.dense.inputs import check_columns, check_network
from longview.methods.figures import segmentation
from longview.methods.objective import NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Sums, Variables
from longview.modelzoo.layers.dense.fpn import bilinear

_COLUMNS = {'map': 'B h w'}


@dataclasses.dataclass(frozen=True)
class Segment(NetworkObjective):
    """Trains ``head(backbone(image))`` on ``map`` (B, h, w), the class of each pixel.

    Logits are resized to the size of ``map``, whatever their stride is. A pixel whose class is not in 0 ... K - 1, as
    255 or -1 often is, has no part in the loss, the gradient and the figures. These are those of
    methods/figures/segmentation.py, ``iou_K`` of each class, and ``loss``.

    Attributes:
        backbone, head, network: image -> features, and features -> logits (B, h, w, K), such as those of
            modelzoo/heads/segment.py; see `NetworkObjective`.
        ignore: a class of 0 ... K - 1 whose pixels are left out, too.
    """

    ignore: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.model, 'Segment')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        check_columns(batch, _COLUMNS, 'Segment')
        weights = self._weights(batch, given)
        return Variables(*forward.init(self.model, rng, *forward.inputs(self.model, batch), weights=weights), {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state, *columns, rng=rng, row=batch['row'])
        loss, metrics = forward.penalized(self._losses(features['logits'], batch).mean(), features)
        return loss, (state, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns the features, and ``logits`` (B, h, w, K) at the head's own stride."""
        return forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return {'loss': self._losses(self.predict(v, batch)['logits'], batch)}

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        logits = bilinear(self.predict(v, batch)['logits'], batch['map'].shape[1:])
        counts = segmentation.confusion(
            batch['map'], jnp.argmax(logits, axis=-1), batch['mask'], classes=logits.shape[-1], ignore=self.ignore
        )
        return {'scores': super().measure(v, batch, ready, rng), 'confusion': counts}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        ious = segmentation.by_class(sums['confusion'])['iou']
        by_class = {f'iou_{index}': float(iou) for index, iou in enumerate(ious)}
        return {**super().figures(sums['scores'], rows), **segmentation.figures(sums['confusion']), **by_class}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``image``, and ``truth`` and ``prediction`` in the colours of the classes; white is left out."""
        logits = bilinear(self.predict(v, batch)['logits'], batch['map'].shape[1:])
        classes = logits.shape[-1]
        truth = jnp.where(counted(batch['map'], classes, self.ignore), batch['map'], -1)
        return {
            'image': drawing.enlarged(drawing.gray(batch['image'])),
            'truth': drawing.enlarged(drawing.coloured(truth, classes)),
            'prediction': drawing.enlarged(drawing.coloured(jnp.argmax(logits, axis=-1), classes)),
        }

    def _losses(self, logits: Float[Array, 'b h w k'], batch: Batch) -> Float[Array, ' b']:
        logits = bilinear(logits, batch['map'].shape[1:])
        return pixel_cross_entropy(logits, batch['map'], counted(batch['map'], logits.shape[-1], self.ignore))


def counted(label: Integer[Array, 'b h w'], classes: int, ignore: int | None = None) -> Bool[Array, 'b h w']:
    """Returns which pixels have a class that counts."""
    known = (label >= 0) & (label < classes)
    return known if ignore is None else known & (label != ignore)


def pixel_cross_entropy(
    logits: Float[Array, 'b h w k'], label: Integer[Array, 'b h w'], counts: Bool[Array, 'b h w']
) -> Float[Array, ' b']:
    """Returns for each example the mean of ``-log softmax(logits)_label`` over the pixels that count, 0 without any."""
    safe = jnp.where(counts, label.astype(jnp.int32), 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    total = jnp.sum(jnp.where(counts, losses, 0.0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(counts, axis=(1, 2)), 1)

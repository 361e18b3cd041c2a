"""CLIP: each image has to find its own caption among those of the batch, and each caption its image.

Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision",
https://arxiv.org/abs/2103.00020, figure 3. Cosines are multiplied by a factor that is learned, the inverse of a
temperature, and never above 100 (section 2.5). The others are those of the whole batch, on whatever devices they are,
so that a step is not run in microbatches.

An evaluation needs no training: a class is the mean of the embeddings of some captions that name it (section 3.1.4),
computed once (`Clip.prepare`), and an image is of the class that it is nearest to. Images and captions also look for
each other in the whole split (retrieval). Captions of the same words are one, which fits each of its images.

It stands beside, not in, methods/ssl: captions are words that somebody wrote to the images.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.figures import retrieval
from longview.methods.objective import first_shapes
from longview.methods.task import Batch, Given, Metrics, Network, Rows, Shapes, Sums, Task, Variables
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Loaded, network_of
from longview.modelzoo.heads.towers import EMBEDDING, Tower, Towers
from longview.modelzoo.layers.norms.norm import l2_normalize

_MOST = 100.0
_AT = (1, 5)


@dataclasses.dataclass(frozen=True)
class Clip(Task):
    """Trains two networks on pairs; evaluated as ``accuracy`` without training, and by retrieval both ways.

    Attributes:
        image: a backbone that reads an image, or whatever else captions are of. Of a whole network, one that is loaded
            from a file for instance, the backbone is taken, with its weights.
        text: a `features.TextBackbone`, or likewise.
        width: of the embeddings.
        prompts: returns some captions of each class, the columns that `text` reads with axes (classes, captions) in
            front of the words'; None for data without classes, which are judged by retrieval alone.
        temperature: the first one.
    """

    batchwide = True

    image: nn.Module
    text: nn.Module
    width: int = 512
    prompts: Callable[[], Mapping[str, np.ndarray]] | None = None
    temperature: float = 0.07

    def __post_init__(self) -> None:
        ft.require(self._text, ft.TextBackbone, 'Clip.text')
        if not 1 / _MOST <= self.temperature:
            raise ValueError(f'Clip.temperature is {self.temperature}: it must be at least {1 / _MOST}.')

    @property
    def model(self) -> Towers:
        """Both networks with their projections."""
        return Towers(Tower(self._image, self.width), Tower(self._text, self.width), 1 / self.temperature)

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        read = (self.given(batch) if given is None else given).networks
        weights = {kind: {name: tree[kind] for name, tree in read.items() if kind in tree} for kind in _kinds(read)}
        return Variables(*forward.init(self.model, rng, *self._columns(batch), weights=weights), {})

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        loaded = {name: net for name, net in (('image', self.image), ('text', self.text)) if isinstance(net, Loaded)}
        if fixed_only or not loaded:
            return Given()
        like, networks = first_shapes(self, batch), {}
        for name, net in loaded.items():
            own = {kind: {'backbone': tree['backbone']} for kind, tree in like[name].items()}
            networks[name] = network_of(net, None).load(own)
        return Given(networks=networks)

    def deployed(self, v: Variables) -> dict[str, Network]:
        """Returns both towers, ``image`` and ``text``."""
        kinds = {'params': v.params, **v.state}
        of = lambda name: {kind: tree[name] for kind, tree in kinds.items() if name in tree}
        return {name: Network(getattr(self.model, name), of(name)) for name in ('image', 'text')}

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = self._columns(batch)
        (image, text, scale), state = forward.learn(self.model, v.params, v.state, *columns, rng=rng, row=batch['row'])
        cosines = image[EMBEDDING] @ text[EMBEDDING].T
        loss, metrics = forward.penalized(symmetric(scale * cosines), image, text)
        found = jnp.argmax(cosines, axis=1) == jnp.arange(len(cosines))
        return loss, (state, {**metrics, 'accuracy': found.mean(dtype=jnp.float32), 'temperature': 1 / scale})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        """Keeps the factor at 100 or below."""
        del grads, step
        most = jnp.minimum(v.params['log_scale'], math.log(_MOST))
        return v._replace(params={**v.params, 'log_scale': most})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns the features of the image, and ``image_embedding`` and ``text_embedding``."""
        image, text, _ = forward.answer(self.model, v.params, v.state, *self._columns(batch))
        features = {name: value for name, value in image.items() if name != EMBEDDING}
        return {**features, 'image_embedding': image[EMBEDDING], 'text_embedding': text[EMBEDDING]}

    def prepare(self, v: Variables, gathered: dict[str, Any] | None) -> Float[Array, 'k d'] | None:
        """Returns the embedding of each class, or None without prompts."""
        del gathered
        if self.prompts is None:
            return None
        columns = [jnp.asarray(column) for column in forward.inputs(self._text, self.prompts())]
        shapes = [column.shape for column in columns]
        if any(len(shape) != 3 for shape in shapes):
            raise ValueError(
                f'Clip.prompts has columns of the shapes {", ".join(map(str, shapes))}: '
                'make them (classes, captions, words).'
            )
        flat = tuple(column.reshape(-1, column.shape[-1]) for column in columns)
        _, text, _ = forward.answer(self.model, v.params, v.state, None, flat)
        each = text[EMBEDDING].reshape(*shapes[0][:2], self.width)
        return l2_normalize(each.mean(axis=1), axis=1)

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return self._score(v, batch, self.prepare(v, None))

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        del rng
        mask = batch['mask']
        scores = self._score(v, batch, ready)
        return {'count': jnp.sum(mask), **{name: jnp.sum(jnp.where(mask, x, 0.0)) for name, x in scores.items()}}

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        del ready
        found, (words, valid) = self.predict(v, batch), forward.inputs(self._text, batch)
        embeddings = {name: found[f'{name}_embedding'] for name in ('image', 'text')}
        return {**embeddings, 'caption': jnp.where(valid, words, -1)}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        count = sums['count'] or 1
        scores = {name: float(total / count) for name, total in sums.items() if name != 'count'}
        _, first, caption = np.unique(rows['caption'], axis=0, return_index=True, return_inverse=True)
        image, text = (rows['image'], caption), (rows['text'][first], np.arange(len(first)))
        ways = {'image_to_text': (*image, *text), 'text_to_image': (*text, *image)}
        found = {way: retrieval.figures(*sides, at=_AT) for way, sides in ways.items()}
        return scores | {f'{way}_{name}': x for way, figures in found.items() for name, x in figures.items()}

    def depth_of(self, path: str) -> tuple[int, int]:
        """Returns the depth in the tower that the parameter is of."""
        backbone = self._text if 'text' in path.partition('backbone')[0].split('/') else self._image
        return backbone.layer_of(path), backbone.num_layers

    @property
    def _image(self) -> nn.Module:
        return network_of(self.image, None).backbone

    @property
    def _text(self) -> nn.Module:
        return network_of(self.text, None).backbone

    def _columns(self, batch: Batch) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return forward.inputs(self._image, batch), forward.inputs(self._text, batch)

    def _score(self, v: Variables, batch: Batch, classes: Float[Array, 'k d'] | None) -> dict[str, Float[Array, ' b']]:
        """Returns the loss and the accuracy of a classifier that has learned no class."""
        if classes is None:
            return {}
        if 'label' not in batch:
            raise ValueError('Clip has prompts of classes, and the batch has no label: set prompts to None.')
        image, _, scale = forward.answer(self.model, v.params, v.state, forward.inputs(self._image, batch), None)
        logits = scale * image[EMBEDDING] @ classes.T
        right = jnp.argmax(logits, axis=1) == batch['label']
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
        return {'loss': losses, 'accuracy': right.astype(jnp.float32)}


def _kinds(networks: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the collections of variables that there are."""
    return sorted({kind for tree in networks.values() for kind in tree})


def symmetric(logits: Float[Array, 'b b']) -> Float[Array, '']:
    """Returns the mean of the cross-entropies of rows and of columns, whose right answers are on the diagonal."""
    right = jnp.diagonal(logits)
    return sum(jnp.mean(jax.nn.logsumexp(logits, axis=axis) - right) for axis in (0, 1)) / 2

"""Sample quality: the Frechet distance from samples to the data, by the features of a trained classifier.

Heusel et al., 2017, https://arxiv.org/abs/1706.08500: the Frechet distance between the features of samples and those of
the evaluation split (methods/figures/frechet.py). With Inception's features it is called FID; here the network is what
the config names, so distances compare only with those by the same network and of as many samples.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.figures import frechet
from longview.methods.generate.generator import deployed_generator, sample_keys
from longview.methods.task import Batch, Given, Metrics, Shapes, Sums, Variables, Wrapper
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, bare, filled


@dataclasses.dataclass(frozen=True)
class Judged(Wrapper):
    """Task -> Task: an evaluation makes a sample for each example of the split, of its class if one can be asked for.

    Figures are those of `inner`, ``frechet`` and, by a judge's classes, ``classes``: how many of them have a sample,
    ``judged_K``: how many samples class K has, and ``agreement``: the share of the samples that are of the class that
    was asked for, where one was.

    Attributes:
        inner: a `Generator`, or wrappers around one: outside of `Ema` only the averaged weights make samples.
        judge: image -> features with ``pooled`` and ``logits``, in the units of the batches; it never changes. None
            takes the pixels as features.
    """

    judge: Classifier | None = None

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        given = self.inner.given(batch, fixed_only=fixed_only)
        if self.judge is None:
            return given
        return given._replace(fixed={'inner': given.fixed, 'judge': forward.read(self.judge, _image(batch))})

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        if self.judge is None:
            return self.inner.init(rng, batch, given)
        given = self.given(batch) if given is None else given
        v = self.inner.init(rng, batch, given._replace(fixed=given.fixed.get('inner', {})))
        judge = bare(self.judge).init(jax.random.fold_in(rng, 1), _image(batch), train=False)
        return v._replace(fixed={'inner': v.fixed, 'judge': filled(judge, given.fixed.get('judge', {}))})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        return self.inner.loss(self.deploy(v), batch, rng, step)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        return self.inner.after(self.deploy(v), grads, step)._replace(fixed=v.fixed)

    def deploy(self, v: Variables) -> Variables:
        return v if self.judge is None else v._replace(fixed=v.fixed['inner'])

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        generator, deployed = deployed_generator(self, v)
        condition, mask = generator.condition(batch), batch['mask']
        made = generator.generate(deployed, sample_keys(rng, batch['index']), condition)
        of_data, of_made = (self._seen(v, image) for image in (_image(batch), made))
        own = {name: frechet.moments(seen[ft.POOLED], mask) for name, seen in (('data', of_data), ('made', of_made))}
        if self.judge is not None:
            judged = jnp.argmax(of_made['logits'], axis=1)
            own['judged'] = jnp.sum(
                jax.nn.one_hot(judged, of_made['logits'].shape[1], dtype=jnp.int32) * mask[:, None], 0
            )
            if condition is not None:
                own['agreeing'] = jnp.sum((judged == condition) & mask)
        return {'inner': self.inner.measure(self.deploy(v), batch, ready, rng), **own}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        own = {'frechet': frechet.distance(*(frechet.of_sums(sums[name]) for name in ('data', 'made')))}
        if 'judged' in sums:
            own['classes'] = float((sums['judged'] > 0).sum())
            own |= {f'judged_{index}': float(count) for index, count in enumerate(sums['judged'])}
        if 'agreeing' in sums:
            own['agreement'] = float(sums['agreeing'] / (sums['made']['count'] or 1))
        return {**self.inner.figures(sums['inner'], rows), **own}

    def _seen(self, v: Variables, image: Float[Array, 'b h w c']) -> ft.Features:
        if self.judge is None:
            return {ft.POOLED: image.reshape(len(image), -1)}
        return self.judge.apply(v.fixed['judge'], image, train=False)


def _image(batch: Shapes) -> Any:
    return batch[ft.IMAGE]

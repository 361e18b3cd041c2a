"""A finished run evaluated again: all its figures and, for a classifier, figures for each class."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from longview.engine.opened import OpenedRun
from longview.methods.ema import Ema
from longview.methods.figures import by_class
from longview.methods.start import Start
from longview.methods.task import Batch, Rows, Task, Variables, Wrapper

_RAW = 'raw_'


@dataclasses.dataclass(frozen=True)
class Judged:
    """What an evaluation found.

    Attributes:
        figures: by name.
        names: of the classes; empty for what is no classifier of single labels.
        confusion: counts (K, K), true classes in rows; None likewise.
        classes: of each class `examples`, `precision`, `recall` and `f1`; None likewise.
        reliability: examples by confidence (methods/figures/by_class.py); None likewise.
    """

    figures: Mapping[str, float]
    names: Sequence[str] = ()
    confusion: np.ndarray | None = None
    classes: Mapping[str, np.ndarray] | None = None
    reliability: Mapping[str, np.ndarray] | None = None


def judge(opened: OpenedRun, *, raw: bool = False, flip: bool = False) -> Judged:
    """Evaluates a run.

    Args:
        opened: the run.
        raw: the weights that were trained, of a run that evaluates averages of them.
        flip: each image is seen mirrored too, and the mean of both answers counts; of a classifier.

    Raises:
        ValueError: the run averages no weights, or is no classifier of single labels.
    """
    task = _unaveraged(opened.task) if raw else opened.task
    own = {} if flip else _figures(opened, raw)
    if not _classifies(opened):
        if flip:
            raise ValueError(
                f'a mean over mirrored images is for classifiers, and {type(task).__name__} predicts no logits of a '
                'label: leave --tta out.'
            )
        return Judged(own)
    rows = opened.gather(functools.partial(_answers, raw, flip))
    probabilities, label = rows['probabilities'], rows['label']
    found = {f'eval/{name}': value for name, value in by_class.figures(probabilities, label).items()}
    confusion = by_class.confusion(probabilities, label)
    return Judged(
        {**found, **own, 'eval/examples': len(label)},
        opened.data.class_names or tuple(map(str, range(len(confusion)))),
        confusion,
        by_class.by_class(confusion),
        by_class.reliability(probabilities, label),
    )


def _figures(opened: OpenedRun, raw: bool) -> dict[str, float]:
    """Returns the run's own figures; those of the raw weights have lost their mark."""
    prefixes = sorted(['eval/', *(f'eval/{name}/' for name in opened.run.evals)], key=len, reverse=True)
    found = {}
    for name, value in opened.evaluate().items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        figure = name.removeprefix(prefix)
        if figure.startswith(_RAW) == raw:
            found[prefix + figure.removeprefix(_RAW)] = value
    return found


def _unaveraged(task: Task) -> Task:
    """Returns what the averages are of.

    Raises:
        ValueError: there are none, or another wrapper is around them.
    """
    outer = _started(task)
    if isinstance(outer, Ema):
        return outer.inner
    inner = outer
    while isinstance(inner, Wrapper) and not isinstance(inner, Ema):
        inner = inner.inner
    why = (
        f'{type(outer).__name__} is around the averages'
        if isinstance(inner, Ema)
        else f'{type(inner).__name__} is no Ema, so the run averages no weights'
    )
    raise ValueError(f'{why}: take --weights=averaged.')


def _started(task: Task) -> Task:
    """Returns what `Start` is around, whose variables are the same."""
    while isinstance(task, Start):
        task = task.inner
    return task


def _classifies(opened: OpenedRun) -> bool:
    spec = opened.data.batch_spec(1, train=False)
    label = spec.get('label')
    single = label is not None and label.ndim == 1 and label.dtype == np.int32 and opened.data.num_classes is not None
    return single and opened.gives('logits', axes=2)


def _answers(raw: bool, flip: bool, task: Task, v: Variables, batch: Batch) -> Rows:
    if raw:
        task, v = _unaveraged(task), v._replace(state=v.state['inner'])
    seen = [batch, {**batch, 'image': batch['image'][:, :, ::-1]}] if flip else [batch]
    answers = [jax.nn.softmax(task.predict(v, each)['logits'].astype(jnp.float32)) for each in seen]
    return {'probabilities': sum(answers) / len(answers), 'label': batch['label']}

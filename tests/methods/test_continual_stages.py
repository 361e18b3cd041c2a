"""What stands between the runs of sessions, and behind them: herding, and the matrices of accuracies."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from longview import train
from longview.data.sessions import Sessions
from longview.methods.computation import Opened, Work
from longview.methods.continual.compare import Compare
from longview.methods.continual.herding import Herding, herded
from longview.methods.continual.incremental import Incremental
from longview.methods.task import Variables, Wrapper
from longview.modelzoo.heads import Linear
from tests import runs, toys
from tests.data.streams import classified, evaluation, joined
from tests.methods.small import NET, RNG, SEEN, supervised


def test_herding_is_the_papers_greedy_choice():
    """Each exemplar brings the mean of those chosen the nearest to the class's that any example left could."""
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    chosen = herded(features, 5).tolist()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for count in range(1, 6):
        off = lambda example: np.linalg.norm(unit.mean(axis=0) - unit[[*chosen[: count - 1], example]].mean(axis=0))
        assert chosen[count - 1] == min(set(range(12)) - set(chosen[: count - 1]), key=off)
    assert herded(features, 3).tolist() == chosen[:3], 'fewer exemplars are the first of more'
    assert sorted(herded(features, 99)) == list(range(12)), 'no example is chosen twice'
    assert herded(7 * features, 5).tolist() == chosen and herded(np.zeros((2, 3), np.float32), 2).tolist() == [0, 1]


DATA = classified(4, 5, 3)


class Known(Wrapper):
    """A task whose features are given by the examples' numbers."""

    def predict(self, v, batch):
        return {'pooled': v.params[batch['index']]}


class OneRun(Work, Opened):
    """Work of a single finished run with such features."""

    def __init__(self, features):
        self._variables = Variables(jax.numpy.asarray(features), {}, {})

    def open(self, workdir):
        assert workdir == 'runs/first'
        return self

    def gather(self, program, data=None, batch_size=None):
        rows = joined(evaluation(data, 5))
        batch = {name: jax.numpy.asarray(column[rows['mask']]) for name, column in rows.items()}
        return jax.device_get(program(Known(supervised(NET)), self._variables, batch))


def of_training(data):
    """The same data set with its training split for evaluation."""
    return type(data)(data.train_split, data.train_split, num_classes=data.num_classes, prefetch=0)


def test_herding_writes_the_scores_by_which_sessions_keep_exemplars(tmp_path):
    features = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    fields = {'parts': ((1,), (0, 2)), 'steps': 5}
    scored = Sessions(of_training(DATA), **fields)
    herding = Herding('runs/first', scored, session=0, count=3)
    files = herding(OneRun(features)).files
    path = str(tmp_path / 'scores.npy')
    np.save(path, files['scores.npy'])
    order = 4 + herded(features[4:9], 3)
    assert files['scores.npy'][order].tolist() == [0, -1, -2] and np.isneginf(files['scores.npy']).sum() == 9
    assert Sessions(DATA, memory=2, scores=path, **fields).exemplars(1).tolist() == sorted(order[:2])

    later = Herding('runs/first', scored, session=1, count=2, before=path)(OneRun(-features)).files['scores.npy']
    assert (later[order] == files['scores.npy'][order]).all(), 'lists of earlier sessions stay'
    assert np.isfinite(later[:4]).sum() == np.isfinite(later[9:]).sum() == 2
    with pytest.raises(
        ValueError, match='Herding.session is 2, in which no class .*: name one of the sessions from 0 to 1'
    ):
        Herding('runs/first', scored, session=2, count=2)(OneRun(features))
    np.save(path, files['scores.npy'][1:])
    with pytest.raises(ValueError, match=r'has scores of \(11,\) and the data 12 examples: name the scores'):
        Herding('runs/first', scored, session=1, count=2, before=path)(OneRun(features))
    with pytest.raises(ValueError, match='Herding.count is 0: it must be at least 1'):
        Herding('runs/first', scored, session=0, count=0)


def line(session: int, *accuracies: float) -> dict[str, float]:
    """A line of metrics.jsonl after an evaluation."""
    each = {f'eval/session{k}/accuracy': value for k, value in enumerate(accuracies)}
    return {'step': 10 * session, 'eval/session': float(session), 'eval/accuracy': 0.5, **each}


METRICS = {
    'all': [{'step': 5, 'train/loss': 1.0}, line(0, 0.1, 0.0), line(0, 0.9, 0.0), line(1, 0.4, 0.8)],
    'first': [line(0, 1.0, 0.0)],
    'second': [line(1, 0.6, 1.0)],
}


class Logs(Work):
    """Work of runs of which only the metrics are left."""

    def __init__(self, logs):
        self._logs = logs

    def metrics(self, workdir):
        return self._logs[workdir]


def test_runs_are_compared_by_their_last_evaluation_in_each_session():
    files = Compare({'one run': 'all', 'a run each': ('first', 'second')})(Logs(METRICS)).files
    plain = json.loads(json.dumps(files['sessions.json']))
    assert plain['one run']['matrix'] == [[0.9, 0.0], [0.4, 0.8]]
    assert plain['one run']['forgetting'] == pytest.approx(0.5) and plain['a run each']['last_accuracy'] == 0.8
    assert '| one run | 75.00 | 60.00 | 50.00 | -50.00 |\n' in files['sessions.md']
    assert '| a run each, after session | session 0 | session 1 |\n|' in files['sessions.md']
    assert '| 1 | 60.00 | 100.00 |\n' in files['sessions.md']
    image = files['sessions.png']
    assert image.shape == (49, 49 + 24 + 49, 1) and image.dtype == np.uint8
    assert image[12, 12, 0] == round(0.9 * 255) and (image[:, 49:73] == 255).all(), 'white lies between'
    assert image[12, 73 + 36, 0] == 0 and image[36, 73 + 36, 0] == 255 and (image[24, :49] == 128).all()


@pytest.mark.parametrize(
    ('workdirs', 'figure', 'words'),
    [
        ({'short': 'first'}, 'accuracy', r'short was evaluated in the sessions \[0\] and has .*accuracy of 2: let it'),
        ({'other': 'all'}, 'task_accuracy', r'sessions \[0, 1\] and has eval/session.../task_accuracy of 0'),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(workdirs, figure, words):
    with pytest.raises(ValueError, match=words):
        Compare(workdirs, figure)(Logs(METRICS))


def test_the_figures_of_the_task_are_those_that_are_read():
    task = Incremental(NET, Linear(10), class_sessions=(0, 1) * 5)
    batch = SEEN | {'session': jax.numpy.zeros(16, int), 'mask': jax.numpy.ones(16, bool)}
    sums = jax.eval_shape(lambda: task.measure(task.init(RNG, batch), batch, None, RNG))
    figures = task.figures(jax.tree.map(lambda x: np.zeros(x.shape), sums), {})
    lines = [{f'eval/{name}': value for name, value in (figures | {'session': t}).items()} for t in range(2)]
    for figure in ('accuracy', 'task_accuracy'):
        plain = Compare({'a': 'run'}, figure)(Logs({'run': lines})).files['sessions.json']
        assert np.shape(plain['a']['matrix']) == (2, 2)


def staged() -> ConfigDict:
    """Two sessions of four steps as a run each, herding between them, and their matrix."""
    toy = toys.config(steps=4, best='eval/session').to_dict()
    objective = {'fn': 'methods.continual.incremental:Incremental', 'class_sessions': {'data': 'class_sessions'}}
    sessions = {'fn': 'data.sessions:Sessions', 'data': toy['data'], 'parts': 2, 'steps': 4}
    first = toy | {'task': toy['task'] | objective, 'data': sessions}
    begun = {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'first'}}
    kept = {'memory': 3, 'scores': {'stage': 'herding', 'file': 'scores.npy'}, 'first': 1}
    second = first | {
        'task': {'fn': 'methods.start:Start', 'inner': first['task'], 'read': begun},
        'data': sessions | kept,
    }
    herding = {
        'fn': 'methods.continual.herding:Herding',
        'run': {'stage': 'first'},
        'data': sessions | {'data': toy['data'] | {'eval_split': 'train'}},
        'session': 0,
        'count': 3,
    }
    compare = {
        'fn': 'methods.continual.compare:Compare',
        'runs': {'herded': [{'stage': 'first'}, {'stage': 'second'}]},
    }
    stages = {'first': first, 'herding': herding, 'second': second, 'compare': compare}
    return ConfigDict({'stages': stages, 'order': tuple(stages)})


@pytest.mark.heavy
def test_sessions_are_stages_of_one_config(tmp_path):
    with runs.quickly():
        scores = train.train(staged(), tmp_path)
    exemplars = np.isfinite(np.load(tmp_path / 'herding' / 'scores.npy'))
    assert exemplars.shape == (1438,) and exemplars.sum() == 5 * 3
    (matrix,) = (each['matrix'] for each in json.loads((tmp_path / 'compare' / 'sessions.json').read_text()).values())
    assert matrix[0][1] == 0 < matrix[0][0] and matrix[1][1] == scores['second/eval/session1/accuracy'] > 0
    assert (tmp_path / 'compare' / 'sessions.png').exists()

"""Images per second of a network with early exits, compared with the whole network.

    python train.py --config configs/early_exit.py:digits --workdir runs/early_exit_digits
    python -m benchmarks.early_exit --workdir runs/early_exit_digits [--thresholds=0.5,0.8,0.95] [--rounds=20]

Runs `methods.exits.staged` with the best weights of a run on its evaluation images, as one batch. A round runs every
threshold and the whole network without branches once, in turn; printed figures are medians over the rounds. Time is
wall time, including transfers to the host and back.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from longview.methods.exits.confidence import operations
from longview.methods.exits.staged import staged
from longview.methods.task import Variables, chain
from longview.runtime.checkpoint import Best
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh
from longview.runtime.plan import Run, read_run
from longview.trees import path_of

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run of configs/early_exit.py.', required=True)
_THRESHOLDS = flags.DEFINE_list('thresholds', ['0.5', '0.8', '0.9', '0.95', '0.99'], 'When an exit is sure.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Times that everything is measured.')


def trained(workdir: pathlib.Path) -> tuple[Run, Variables, dict[str, jax.Array]]:
    """Returns a run, its best variables, and its evaluation split as one transformed batch."""
    run, _ = read_run(json.loads((workdir / 'config.json').read_text()))
    run.data.check()
    batches = run.data.evaluate(batch_sharding(make_mesh(MeshConfig())), 512)
    rows = [{name: np.asarray(value)[np.asarray(batch['mask'])] for name, value in batch.items()} for batch in batches]
    batch = {name: np.concatenate([part[name] for part in rows]) for name in rows[0] if name != 'mask'}
    batch = jax.jit(chain(run.eval_transforms))(batch, jax.random.key(0))
    saved, shapes = Best(str(workdir))(), jax.eval_shape(run.task.init, jax.random.key(0), batch)
    read = lambda place, tree: jax.tree_util.tree_map_with_path(lambda path, _: saved[place + path_of(path)], tree)
    return run, Variables(read('variables/params/', shapes.params), read('variables/state/', shapes.state), {}), batch


def main(_: list[str]) -> None:
    run, v, batch = trained(pathlib.Path(_WORKDIR.value))
    v, image, label = jax.device_put(v), batch['image'], np.asarray(batch['label'])
    last = len(run.task.exits)
    whole = jax.jit(lambda v, x: run.task.model.apply({'params': v.params, **v.state}, x, last, method='until')[1][-1])
    calls: dict[str, Callable[[], Any]] = {'whole': lambda: (np.asarray(whole(v, image)), np.full(len(label), last))}
    for threshold in _THRESHOLDS.value:
        calls[threshold] = _bound(staged(dataclasses.replace(run.task, threshold=float(threshold)), v), image)
    answers = {name: answer() for name, answer in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS.value):
        for name, answer in calls.items():
            begin = time.perf_counter()
            answer()
            times[name].append(time.perf_counter() - begin)
    spent, plain = operations(run.task, v, image)
    print(f'{len(label)} images, {_ROUNDS.value} rounds; jax {jax.__version__}, {jax.devices()[0].device_kind}\n')
    print(
        '| threshold | accuracy | leave at each exit | arithmetic saved | images/s | times the whole |',
        '|---|---|---|---|---|---|',
        sep='\n',
    )
    for name, (logits, taken) in answers.items():
        saved = 0.0 if name == 'whole' else 1 - np.array(spent)[taken].mean() / plain
        share = ' '.join(f'{(taken == index).mean():.1%}' for index in range(last + 1))
        ratio = statistics.median(there / here for there, here in zip(times['whole'], times[name]))
        print(
            f'| {name} | {(logits.argmax(1) == label).mean():.2%} | {share} | {saved:.1%} | '
            f'{len(label) / statistics.median(times[name]):,.0f} | {ratio:.2f} |'
        )


def _bound(answer: Callable[..., Any], image: jax.Array) -> Callable[[], Any]:
    return lambda: answer(image)


if __name__ == '__main__':
    app.run(main)

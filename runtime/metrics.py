"""Metrics of a run: ``metrics.jsonl``, TensorBoard, and a progress bar when a person watches.

``metrics.jsonl`` holds one object per line: ``step`` and what was measured there (``train/loss``,
``eval/accuracy``, ...). Keys under ``time/`` depend on the machine; all others are the same bits however
often the run was stopped. A run that resumes at a step drops what was written after it.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import PIL.Image
import tensorboardX
import tqdm
from jax.experimental import multihost_utils

from longview.runtime.errors import RunError
from longview.runtime.rows import best_step, evaluations_since_best, newest, read


class Metrics:
    """Writes the metrics of one run.

    Args:
        workdir: the run's folder, which must exist.
        step: the step resumed from; later lines are dropped.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        self._path = workdir / 'metrics.jsonl'
        self._board = None
        self._rows = [row for row in read(self._path) if row['step'] <= step]
        if jax.process_index() == 0:
            _replace(self._path, self._rows)
            self._board = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line and flushes it to the disk.

        Raises:
            RunError: it cannot be written.
        """
        row = {'step': step, **{key: float(value) for key, value in values.items()}}
        self._rows.append(row)
        if self._board is None:
            return
        try:
            with self._path.open('a') as file:
                file.write(json.dumps(row) + '\n')
                file.flush()
                os.fsync(file.fileno())
            for key, value in values.items():
                self._board.add_scalar(key, value, step)
            self._board.flush()
        except OSError as error:
            raise RunError(
                f'{self._path} cannot be written ({error}): free some space or mend the folder, then '
                'run the same command again; the checkpoints are untouched.'
            ) from error

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes pictures beside each other, as ``pictures/NAME/STEP.png`` and for TensorBoard.

        Args:
            step: of the run.
            pictures: by name (B, H, W, C) with one or three channels, uint8 or floats from 0 to 1.

        Raises:
            ValueError: a picture has other channels.
            RunError: they cannot be written.
        """
        strips = {name: strip(array, name) for name, array in pictures.items()}
        if self._board is None:
            return
        try:
            for name, array in strips.items():
                folder = self._path.parent / 'pictures' / name
                folder.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(array).save(folder / f'{step:08d}.png')
                self._board.add_image(f'pictures/{name}', array, step, dataformats='HWC')
        except OSError as error:
            raise RunError(f'the pictures of step {step} cannot be written ({error}): free some space.') from error

    def is_best(self, key: str, step: int, mode: str) -> bool:
        """Whether the value at `step` is better than all before it; values that are not finite do not count.

        In a run of several processes all get the answer of the first one, which is the one that wrote the rows.

        Args:
            key: such as ``eval/accuracy``.
            step: at which it was measured.
            mode: which value is the best, ``max`` or ``min``.
        """
        best = best_step([row for row in self._rows if row['step'] <= step], key, mode) == step
        return bool(multihost_utils.broadcast_one_to_all(best))

    def since_best(self, key: str, mode: str) -> int:
        """How many evaluations there were since the best one; the same on all processes.

        Args:
            key, mode: as those of `is_best`.
        """
        return int(multihost_utils.broadcast_one_to_all(evaluations_since_best(self._rows, key, mode)))

    def last(self, prefix: str) -> dict[str, float]:
        """Returns the keys that begin with `prefix` of the newest row that has any."""
        return newest(self._rows, prefix)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def strip(images: np.ndarray, name: str) -> np.ndarray:
    """Returns images (B, H, W, C) in a row with a line of white between them, uint8 (H, ..., 3).

    Raises:
        ValueError: they have neither one nor three channels.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f'the pictures {name!r} have shape {images.shape}: give (B, H, W, 1) or (B, H, W, 3).')
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(np.asarray(images, np.float32), 0, 1)).astype(np.uint8)
    framed = np.pad(
        np.broadcast_to(images, (*images.shape[:3], 3)), ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255
    )
    return np.concatenate(list(framed), axis=1)[:, :-1]


class Progress:
    """Shows a bar with rate and time left on a terminal, and prints a plain line for each log elsewhere.

    Args:
        total, start: steps of the run, and done before.
        batch_size: examples of a step.
        best: the figure that decides which checkpoint is the best; it is shown beside loss and accuracy.
    """

    def __init__(self, total: int, start: int, batch_size: int, best: str = ''):
        self._batch_size, self._total, self._start, self._best = batch_size, total, start, best
        self._watched = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm.tqdm(total=total, initial=start, unit='step', disable=not self._watched, dynamic_ncols=True)
        self._clock = (time.perf_counter(), start)
        self._note: dict[str, str] = {}

    def advance(self) -> None:
        self._bar.update()

    def rate(self, step: int) -> dict[str, float]:
        """Returns images and steps per second since the last call."""
        now, (then, before) = time.perf_counter(), self._clock
        self._clock = (now, step)
        steps_per_second = (step - before) / max(now - then, 1e-9)
        return {
            'time/images_per_second': steps_per_second * self._batch_size,
            'time/steps_per_second': steps_per_second,
        }

    def pause(self) -> None:
        """Keeps the time since the last call of `rate` out of the next rate, as that of an evaluation."""
        self._clock = (time.perf_counter(), self._clock[1])

    def report(self, step: int, values: dict[str, float]) -> None:
        """Shows the newest values."""
        shown = {k: f'{v:.4g}' for k, v in values.items() if k == self._best or k.split('/')[-1] in _SHOWN}
        self._note |= shown
        if self._watched:
            self._bar.set_postfix(self._note)
        elif jax.process_index() == 0:
            rate = values.get('time/steps_per_second')
            left = f'  {_duration((self._total - step) / rate)} left' if rate else ''
            notes = '  '.join(f'{key} {value}' for key, value in shown.items())
            print(f'step {step}/{self._total}  {notes}{left}', flush=True)

    def close(self) -> None:
        self._bar.close()


_SHOWN = ('loss', 'accuracy', 'learning_rate', 'images_per_second')


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'


def _replace(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix('.tmp')
    temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    temporary.replace(path)

"""Images per second of the input pipeline alone, for the data of a config.

    python -m benchmarks.input --config configs/vig_s.py:smoke --config.data.image_size=224

There are three measurements: batches of the training split as host arrays, the same batches put on the devices by the
prefetch thread, and the evaluation split. `per core` is images per second of CPU time, which other work on the machine
does not affect. A split that fits is read from memory, and the time to its first batch includes reading the whole
split. The last line is quoted, not measured here: tf.data, one thread, `decode_and_crop_jpeg` and a bilinear resize
without antialiasing, on 500 x 375 JPEGs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing

import jax
import numpy as np
from absl import app, flags
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from longview.input_pipeline import Images
from longview.runtime.resolve import resolve

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE or FILE:PRESET.', lock_config=True)
_SECONDS = flags.DEFINE_float('seconds', 10.0, 'Time to measure each, after a first batch.')

_QUOTED = '| tf.data, quoted: 2 cores of an AMD EPYC, TensorFlow 2.21 | 997-1,176 | 967-1,031 | |'


def measure(batches: Iterator[dict], seconds: float) -> tuple[float, float, float]:
    """Reads batches for `seconds`; returns (images/s, images per CPU second, seconds to the first batch)."""
    begin = time.perf_counter()
    jax.block_until_ready(next(batches))
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batch = next(batches)
        count += int(batch['mask'].sum()) if 'mask' in batch else len(batch['label'])
    wall = time.perf_counter() - start
    return count / wall, count / (time.process_time() - cpu), start - begin


def again_and_again(images: Images, rows: np.ndarray) -> Iterator[dict]:
    """Yields evaluation batches forever."""
    while True:
        with closing(iter(images.host_evaluate(rows, len(rows)))) as batches:
            yield from batches


def table(images: Images, batch_size: int, seconds: float) -> str:
    """Returns the measurements of a data set as a Markdown table."""
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ('data',)), PartitionSpec('data'))
    rows = np.arange(batch_size)
    pipelines = {
        'train, host': lambda: images.host_train(rows, batch_size, 0, 0),
        'train, on the devices': lambda: images.train(sharding, batch_size, 0),
        'evaluation, host': lambda: again_and_again(images, rows),
    }
    lines = ['| what | images/s | per core | first batch, s |', '| --- | --- | --- | --- |']
    for name, start in pipelines.items():
        with closing(iter(start())) as batches:
            rate, per_core, first = measure(batches, seconds)
        lines.append(f'| {name} | {rate:,.0f} | {per_core:,.0f} | {first:.1f} |')
    return '\n'.join([*lines, _QUOTED])


def main(_: list[str]) -> None:
    """Prints the table, after a line that says what is measured."""
    config = _CONFIG.value
    images: Images = resolve(config.data)
    images.check()
    print(images)
    print(f'batches of {config.batch_size}, {images.image_shape}, {os.cpu_count()} cores')
    print(table(images, config.batch_size, _SECONDS.value))


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)

"""train.py, which sends itself a signal at a moment that a test chooses, however slow the machine is.

python tests/stopped.py SIGTERM 6 --config=...       # when metrics of step 6 are written
python tests/stopped.py SIGKILL save --config=...    # with everything of a checkpoint written except its final name
"""

import os
import pathlib
import runpy
import signal
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from orbax.checkpoint._src.path import atomicity

from longview.runtime.metrics import Metrics

_, name, moment, *flags = sys.argv
write = Metrics.write


def send() -> None:
    os.kill(os.getpid(), signal.Signals[name])


async def finalize(*unused: object, **also_unused: object) -> None:
    send()


def write_and_send(metrics: Metrics, step: int, values: dict[str, Any]) -> None:
    write(metrics, step, values)
    if step == int(moment):
        send()


if moment == 'save':
    atomicity.AtomicRenameTemporaryPath.finalize = finalize
else:
    Metrics.write = write_and_send
sys.argv = ['train.py', *flags]
runpy.run_path('train.py', run_name='__main__')

"""timm's side of `benchmarks.models`: reads 'forward' or 'train' from its input, and prints seconds.

    python -m benchmarks.peer_timm MODEL SIZE BATCH THREADS

Needs torch and timm.
"""

import sys
import time
from collections.abc import Callable

import timm
import torch

from benchmarks.peer import serve


def calls(name: str, size: int, batch: int) -> dict[str, Callable[[], None]]:
    """Returns the two functions to time."""
    x, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 1000
    quiet, model = timm.create_model(name).eval(), timm.create_model(name).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode():
            quiet(x)

    def train() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return {'forward': forward, 'train': train}


def main(name: str, size: str, batch: str, threads: str) -> None:
    """Answers with seconds of wall time until the input ends."""
    torch.set_num_threads(int(threads))
    version = f'torch {torch.__version__}, timm {timm.__version__}'
    serve(version, calls(name, int(size), int(batch)), time.perf_counter)


if __name__ == '__main__':
    main(*sys.argv[1:])

"""timm's side of `benchmarks.models`: reads 'forward' or 'train' from its input, answers seconds.

    python -m benchmarks.peer_timm MODEL SIZE BATCH THREADS

Needs torch and timm and nothing of ours.
"""

from collections.abc import Callable
import json
import sys
import time

import torch

# torchvision registers operators that a build of torch for CPUs alone may lack; timm uses none of them.
try:
    torch.library.define('torchvision::nms', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    torch.library.define('torchvision::qnms', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
except RuntimeError:
    pass  # they are there

import timm


def calls(name: str, size: int, batch: int) -> dict[str, Callable[[], None]]:
    """Returns the two calls to time."""
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


def seconds(call: Callable[[], None]) -> float:
    """Returns the time of one call: the best of as many as a second holds."""
    best, begin = float('inf'), time.perf_counter()
    while best == float('inf') or time.perf_counter() - begin < 1.0:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main(name: str, size: str, batch: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    found = calls(name, int(size), int(batch))
    for call in found.values():
        call()
    print(json.dumps({'torch': torch.__version__, 'timm': timm.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds(found[line.strip()])), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])

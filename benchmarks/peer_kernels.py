"""The other side of `benchmarks.kernels cpu`: answers the time of a call for each kind read from its input.

Needs nothing of ours, and nothing but Python; the forms themselves are in benchmarks/peer_gla.py and the like.
"""

from collections.abc import Callable, Mapping
import json
import sys
import time


def seconds(call: Callable[[], object]) -> float:
    """Returns the CPU time of one call: the best of as many as a second holds, at least one."""
    best, begin = float('inf'), time.perf_counter()
    while best == float('inf') or time.perf_counter() - begin < 1.0:
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def serve(version: str, calls: Mapping[str, Callable[[], object]]) -> None:
    """Warms the calls, says the version, and answers until the input ends."""
    for call in calls.values():
        call()
    print(json.dumps(version), flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds(calls[line.strip()])), flush=True)

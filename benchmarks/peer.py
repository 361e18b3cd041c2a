"""Both ends of a comparison with another library, which runs in a separate process and reports seconds per call.

This module needs nothing but Python, so the other end may run in an environment that has only the other library. Its
programs are in benchmarks/peer_gla.py and the like.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Clock = Callable[[], float]


def seconds(call: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Returns the time of one call: the best of the calls that fit into a second, at least one."""
    best, begin = float('inf'), time.perf_counter()
    while best == float('inf') or time.perf_counter() - begin < 1.0:
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


def serve(version: str, calls: Mapping[str, Callable[[], object]], clock: Clock = time.process_time) -> None:
    """The other end: runs each call once, prints the version, and prints the time of each kind that it reads."""
    for call in calls.values():
        call()
    print(json.dumps({'answer': version}), flush=True)
    for line in sys.stdin:
        print(json.dumps({'answer': seconds(calls[line.strip()], clock)}), flush=True)


class Peer:
    """Our end: starts a module that calls `serve`, with a Python that has its dependencies."""

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        command = [python, '-m', module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._read()

    def seconds(self, kind: str) -> float:
        """Returns the time of one call of this kind."""
        print(kind, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        """Returns the next answer, and skips what libraries print while they are imported."""
        for line in self._process.stdout:
            if line.startswith('{"answer": '):
                return json.loads(line)['answer']
        raise RuntimeError('the other side ended: name a Python that has what it imports with --peer_python.')

    def close(self) -> None:
        """Ends the other process."""
        self._process.stdin.close()
        self._process.wait()

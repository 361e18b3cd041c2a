"""The errors for mistakes of a caller, in a process without the shape checks of the tests."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

_ASK = """
import json, sys
answers = {}
for call in json.load(sys.stdin):
    try:
        eval(call)
    except ValueError as error:
        answers[call] = str(error)
print(json.dumps(answers))
"""


def assert_sentences(setup: str, mistakes: Mapping[str, str]) -> None:
    """Asserts that each call raises its ValueError.

    Args:
        setup: statements that define the names in the calls.
        mistakes: expression -> beginning of the message of its ValueError.
    """
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_ENABLE_X64': '0'}
    ran = subprocess.run(
        [sys.executable, '-c', setup + _ASK],
        input=json.dumps(list(mistakes)),
        env=env,
        text=True,
        capture_output=True,
        cwd=pathlib.Path(__file__).parents[2],
        check=True,
    )
    answers = json.loads(ran.stdout)
    assert {call: answers.get(call, 'nothing')[: len(text)] for call, text in mistakes.items()} == mistakes

"""The errors for mistakes of a caller, without the shape checks of the tests."""

import inspect
from collections.abc import Mapping
from typing import Any


def assert_sentences(names: Mapping[str, Any], mistakes: Mapping[str, str]) -> None:
    """Asserts that each call raises its ValueError.

    Args:
        names: the names in the calls; of functions, the one that is wrapped is called.
        mistakes: expression -> beginning of the message of its ValueError.
    """
    names = {name: inspect.unwrap(value) if callable(value) else value for name, value in names.items()}
    answers = {call: _answer(call, names)[: len(text)] for call, text in mistakes.items()}
    assert answers == mistakes


def _answer(call: str, names: dict[str, Any]) -> str:
    try:
        eval(call, dict(names))
    except ValueError as error:
        return str(error)
    return 'nothing'

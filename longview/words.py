"""Suggestions for misspelt names in error messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message: ``; did you mean 'x'?`` with the closest known name, or all known names."""
    known = [k for k in known if k not in ('self', 'parent', 'name')]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'; did you mean {close[0]!r}?' if close else f'; there is {", ".join(known) or "nothing"}.'

"""Ends of sentences that tell a user what was most likely meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence: ``; did you mean 'x'?`` for the known name closest to `name`, else all known."""
    known = [k for k in known if k not in ('self', 'parent', 'name')]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'; did you mean {close[0]!r}?' if close else f'; there is {", ".join(known) or "nothing"}.'

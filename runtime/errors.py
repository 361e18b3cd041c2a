"""The errors that end a run in one sentence."""


class RunError(RuntimeError):
    """Something stopped the run; the message says what was found, what was wanted, and what to do.

    `train.py` prints the message and exits with status 1. What was saved before is still there.
    """


class Diverged(RunError):
    """A number of the run is no longer finite; all processes of a run see it after the same step."""

"""The error that ends a run in one sentence."""


class RunError(RuntimeError):
    """Something stopped the run; the message says what was found, what was wanted, and what to do.

    `train.py` prints the message and exits with status 1. What was saved before is still there.
    """

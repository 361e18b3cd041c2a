"""Whether the run of a workdir has ended, judged by its files: no program is compiled to find out."""

import pathlib
from typing import Any

from longview.runtime.distributed import from_first
from longview.runtime.plan import Plan, Run, resumable
from longview.runtime.rows import evaluations_since_best, read
from longview.runtime.workdir import check_config, last_checkpoint


def ended(run: Run, plan: Plan, config: dict[str, Any], workdir: pathlib.Path) -> int | None:
    """Returns the step after which a run ended; None if something is left to do.

    There is when the last checkpoint is neither that of the last step nor one that `Run.patience` ended the run with.
    All processes get the answer of the first one.

    Args:
        run, plan: what is asked for now.
        config: of the run, as plain data.
        workdir: may be empty.

    Raises:
        RunError: a run has ended there, and it is one of another config.
    """
    step = int(from_first(str(_ended(run, plan, workdir))))
    if step < 0:
        return None
    check_config(workdir, config, resumable(False))
    return step


def _ended(run: Run, plan: Plan, workdir: pathlib.Path) -> int:
    """Returns the last step, or -1."""
    step = last_checkpoint(workdir)
    if step is None:
        return -1
    rows = [row for row in read(workdir / 'metrics.jsonl') if row['step'] <= step]
    stalled = run.patience is not None and evaluations_since_best(rows, run.best, run.best_mode) >= run.patience
    return step if step >= plan.steps or stalled else -1

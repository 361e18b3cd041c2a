"""A run that an earlier version began is gone on with: its config, its checkpoint and its metrics are still understood.

tests/recorded/vig_digits_74d4283.tar.xz is the workdir of the command below at commit 74d4283, killed after step 3; its
metrics.jsonl holds all six steps.

    python train.py --config configs/vig_s.py:digits --config.task.inner.backbone.width=8
        --config.task.inner.backbone.depth=1 --config.task.inner.backbone.heads=1 --config.steps=6 --config.save_every=3
        --config.eval_every=3 --config.log_every=1 --config.batch_size=32
        --config.optimizer.schedule.warmup_epochs=0.0
"""

import json
import pathlib
import tarfile

import pytest

from longview import train
from longview.configs import vig_s
from longview.runtime.errors import RunError
from tests import runs

RECORDED = pathlib.Path(__file__).parent / 'recorded' / 'vig_digits_74d4283.tar.xz'


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    with tarfile.open(RECORDED) as files:
        files.extractall(tmp_path, filter='data')
    return tmp_path


def config(**backbone: object):
    made = vig_s.get_config('digits')
    made.update(steps=6, save_every=3, eval_every=3, log_every=1, batch_size=32)
    made.optimizer.schedule.warmup_epochs = 0.0
    made.task.inner.backbone.update(width=8, depth=1, heads=1, **backbone)
    return made


def read(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_recorded_run_goes_on_as_it_did(workdir):
    recorded = read(workdir)
    with runs.quickly():
        train.train(config(), workdir)
    for ours, theirs in zip(read(workdir), recorded, strict=True):
        assert ours.keys() == theirs.keys() and ours['step'] == theirs['step']
        for name in ours.keys() - {'time/images_per_second', 'time/steps_per_second'}:
            assert ours[name] == pytest.approx(
                theirs[name], rel=1e-3, abs=0.01 if 'accuracy' in name or 'top5' in name else 0
            )


def test_a_recorded_run_is_not_gone_on_with_by_another_config(workdir):
    with pytest.raises(RunError, match=r'config\.task\.inner\.backbone\.drop_path was 0\.0 and is now 0\.1; use that'):
        train.train(config(drop_path=0.1), workdir)

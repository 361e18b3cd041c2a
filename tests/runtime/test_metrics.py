import json
import math

import pytest

from longview.runtime import metrics
from longview.runtime.errors import RunError

pytestmark = pytest.mark.quick


def test_resuming_drops_later_and_broken_lines(tmp_path) -> None:
    first = metrics.Metrics(tmp_path, 0)
    for step in (10, 20, 30):
        first.write(step, {'eval/accuracy': step / 100})
    first.close()
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text() + '{"step": 40, "eval/acc')
    again = metrics.Metrics(tmp_path, 20)
    again.write(25, {'eval/accuracy': 0.5})
    again.close()
    assert [row['step'] for row in map(json.loads, path.read_text().splitlines())] == [10, 20, 25]


@pytest.mark.parametrize('mode, best', [('max', [2, 4]), ('min', [2, 6])])
def test_the_best_is_finite_and_better_than_all_before_it(mode, best, tmp_path) -> None:
    log = metrics.Metrics(tmp_path, 0)
    for step, value in enumerate((math.nan, 0.5, math.inf, 0.9, 0.9, 0.4, -math.inf), start=1):
        log.write(step, {'eval/accuracy': value, 'eval/loss': 1.0})
    assert [step for step in range(1, 9) if log.is_best('eval/accuracy', step, mode)] == best
    assert log.last('eval/') == {'eval/accuracy': -math.inf, 'eval/loss': 1.0}
    log.close()


def test_tensorboard_gets_the_same_numbers(tmp_path) -> None:
    log = metrics.Metrics(tmp_path, 0)
    log.write(3, {'train/loss': 0.25})
    log.close()
    data = b''.join(f.read_bytes() for f in (tmp_path / 'tensorboard').iterdir())
    assert b'train/loss' in data


def test_a_metrics_file_that_cannot_be_written_is_one_sentence(tmp_path) -> None:
    log = metrics.Metrics(tmp_path, 0)
    (tmp_path / 'metrics.jsonl').unlink()
    (tmp_path / 'metrics.jsonl').mkdir()
    with pytest.raises(RunError, match='the checkpoints are untouched'):
        log.write(1, {'train/loss': 1.0})
    log.close()


def test_the_figure_that_decides_is_shown(capsys) -> None:
    progress = metrics.Progress(total=10, start=0, batch_size=4, best='eval/mean_iou')
    progress.report(5, {'eval/mean_iou': 0.25, 'eval/iou_class0': 0.5, 'eval/loss': 1.5})
    progress.close()
    assert capsys.readouterr().out == 'step 5/10  eval/mean_iou 0.25  eval/loss 1.5\n'

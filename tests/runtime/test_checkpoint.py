"""When checkpoints are written."""

import contextlib

import jax
import orbax.checkpoint as ocp
import pytest

from longview.runtime.checkpoint import Checkpoints

pytestmark = pytest.mark.quick


class _Manager(ocp.CheckpointManager):
    """Notes what it is asked for, in the place of one of Orbax's."""

    def __init__(self, name: str, calls: list[str]):  # and nothing of Orbax's
        self.name, self.calls = name, calls

    def all_steps(self) -> list[int]:
        return []

    def save(self, step: int, **_: object) -> None:
        self.calls.append(f'save {self.name}')

    def wait_until_finished(self) -> None:
        self.calls.append(f'wait {self.name}')

    def check_for_errors(self) -> None:
        pass


@pytest.mark.parametrize('processes', [1, 2])
def test_of_several_processes_no_two_saves_are_under_way_at_once(processes, tmp_path, monkeypatch):
    calls = []
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(checkpoints, '_last', _Manager('last', calls))
        patch.setattr(checkpoints, '_best', _Manager('best', calls))
        patch.setattr(jax, 'process_count', lambda: processes)
        checkpoints.save(1, {})
        checkpoints.save_best(1, {})
    between = calls[calls.index('save last') + 1 : calls.index('save best')]
    assert between == (['wait last', 'wait best'] if processes > 1 else [])

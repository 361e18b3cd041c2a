"""Figures of a sequence of sessions, against a matrix worked by hand."""

import numpy as np
import pytest

from longview.methods.figures import continual

# Part 0 is best known after session 1, and part 1 is known better at the end than right after its session.
MATRIX = np.array(
    [
        [0.8, 0.5, 0.4],
        [0.9, 0.6, 0.5],
        [0.3, 0.7, 1.0],
    ]
)
WANT = {
    'average_incremental_accuracy': (0.8 + (0.9 + 0.6) / 2 + (0.3 + 0.7 + 1.0) / 3) / 3,
    'last_accuracy': (0.3 + 0.7 + 1.0) / 3,
    'forgetting': ((0.9 - 0.3) + (0.6 - 0.7)) / 2,
    'backward_transfer': ((0.3 - 0.8) + (0.7 - 0.6)) / 2,
}


def test_figures_of_three_sessions():
    assert continual.figures(MATRIX) == pytest.approx(WANT)
    untrained = np.array([0.1, 0.2, 0.3])
    assert continual.forward_transfer(MATRIX, untrained) == pytest.approx(((0.5 - 0.2) + (0.5 - 0.3)) / 2)


def test_what_is_never_forgotten():
    figures = continual.figures(np.tril(np.full((4, 4), 0.7)))
    assert figures['forgetting'] == figures['backward_transfer'] == 0
    assert figures['average_incremental_accuracy'] == figures['last_accuracy'] == pytest.approx(0.7)


def test_one_session_has_nothing_to_forget():
    figures = continual.figures(np.array([[0.5]]))
    assert figures['average_incremental_accuracy'] == figures['last_accuracy'] == 0.5
    assert np.isnan([figures['forgetting'], figures['backward_transfer']]).all()
    assert np.isnan(continual.forward_transfer(np.array([[0.5]]), np.array([0.1])))

"""The error measure of kernels: root mean square relative to that of the wanted tensor, one number per named tensor."""

from collections.abc import Mapping

import numpy as np

BARS = {'float32': 1e-5, 'bfloat16': 5e-3, 'float64': 1e-12}


def assert_close(found: Mapping[str, object], wanted: Mapping[str, object], bars: Mapping[str, float]) -> None:
    """Asserts that the error of every tensor in `found` is at most its bar in `bars`; NaN fails."""
    assert found.keys() == wanted.keys()
    errors = {}
    for name, want in wanted.items():
        got, want = np.asarray(found[name], np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape, f'{name} is {got.shape}, wanted {want.shape}'
        error, size = np.linalg.norm(got - want), np.linalg.norm(want)
        errors[name] = error / size if size else error
    far = {name: error for name, error in errors.items() if not error <= bars[name]}
    assert not far, f'relative RMS {far}; all: {errors}'


def assert_same(found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Asserts that every tensor in `found` equals that in `wanted` up to float32's rounding."""
    assert_close(found, wanted, dict.fromkeys(wanted, 2e-6))

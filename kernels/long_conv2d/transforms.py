"""The Fourier transform of real images as products with small matrices, which are computed in float64.

The transform along columns is real, so half of the frequencies suffice; the one along rows is complex. At the sizes of
feature maps (14x14) the products cost less than a 7x7 depthwise convolution of as many channels; and XLA does not split
FFTs over devices. No code was taken from others.

A spectrum is (.., q, 2, k, C): column frequencies, real and imaginary part, row frequencies, channels.
"""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Height and width of an image, the periods of its transform, and the index of the tap with lag 0."""

    size: tuple[int, int]
    period: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    @property
    def half(self) -> int:
        """The number of column frequencies."""
        return self.period[1] // 2 + 1

    def columns(self, count: int | None = None, origin: int = 0) -> np.ndarray:
        """Returns the transform along columns (columns, half, 2) of an image, or of a kernel with `count` taps."""
        place = np.arange(count or self.size[1]) - origin
        angle = _angle(place, np.arange(self.half), self.period[1])
        return np.stack([np.cos(angle), -np.sin(angle)], -1)

    def rows(self, count: int | None = None, origin: int = 0) -> np.ndarray:
        """Returns the complex transform along rows (2, rows, 2, k)."""
        place = np.arange(count or self.size[0]) - origin
        return _complex(_angle(place, np.arange(self.period[0]), self.period[0]))

    def rows_back(self) -> np.ndarray:
        """Returns (2, k, 2, rows), the inverse of `rows`."""
        angle = _angle(np.arange(self.period[0]), np.arange(self.size[0]), self.period[0])
        return _complex(-angle) / self.period[0]

    def columns_back(self) -> np.ndarray:
        """Returns (half, 2, columns), the inverse of `columns`; the other frequencies follow by symmetry."""
        period, frequency = self.period[1], np.arange(self.half)
        angle = _angle(frequency, np.arange(self.size[1]), period)
        alone = (2 * frequency % period == 0)[:, None]
        twice = np.where(alone, 1, 2) / period
        # Frequencies that are their own mirror image have no imaginary part.
        return np.stack([twice * np.cos(angle), np.where(alone, 0, -twice * np.sin(angle))], 1)


def _angle(one: np.ndarray, two: np.ndarray, period: int) -> np.ndarray:
    return 2 * np.pi / period * (np.outer(one, two) % period)


def _complex(angle: np.ndarray) -> np.ndarray:
    """Returns (2, n, 2, m) for angles (n, m): multiplication by exp(-i angle) as a real matrix."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)])

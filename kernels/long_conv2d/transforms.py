"""The Fourier transform of real images as products of small matrices, made in float64.

Columns have a real transform, of which half the frequencies are enough, and rows a complex one. At
the sizes of feature maps (14x14) the products cost less than a 7x7 depthwise convolution of as many
channels, and XLA does not split FFTs over devices. No code was taken from others.

A spectrum is (.., q, 2, k, C): columns, real and imaginary part, rows, channels.
"""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Sizes of an image, the periods of its transform, and the tap of a kernel that has lag 0."""

    size: tuple[int, int]
    period: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    @property
    def half(self) -> int:
        """Frequencies of columns."""
        return self.period[1] // 2 + 1

    def columns(self, count: int | None = None, origin: int = 0) -> np.ndarray:
        """(columns, half, 2): from an image, or from `count` taps of a kernel."""
        place = np.arange(count or self.size[1]) - origin
        angle = _angle(place, np.arange(self.half), self.period[1])
        return np.stack([np.cos(angle), -np.sin(angle)], -1)

    def rows(self, count: int | None = None, origin: int = 0) -> np.ndarray:
        """(2, rows, 2, k): complex."""
        place = np.arange(count or self.size[0]) - origin
        return _complex(_angle(place, np.arange(self.period[0]), self.period[0]))

    def rows_back(self) -> np.ndarray:
        """(2, k, 2, rows): the inverse of `rows`."""
        angle = _angle(np.arange(self.period[0]), np.arange(self.size[0]), self.period[0])
        return _complex(-angle) / self.period[0]

    def columns_back(self) -> np.ndarray:
        """(half, 2, columns): the inverse of `columns`; other frequencies are their mirror."""
        period, frequency = self.period[1], np.arange(self.half)
        angle = _angle(frequency, np.arange(self.size[1]), period)
        alone = (2 * frequency % period == 0)[:, None]
        twice = np.where(alone, 1, 2) / period
        # What mirrors itself has no imaginary part to give.
        return np.stack([twice * np.cos(angle), np.where(alone, 0, -twice * np.sin(angle))], 1)


def _angle(one: np.ndarray, two: np.ndarray, period: int) -> np.ndarray:
    return 2 * np.pi / period * (np.outer(one, two) % period)


def _complex(angle: np.ndarray) -> np.ndarray:
    """(n, m) angles -> (2, n, 2, m): what exp(-i angle) does to real and imaginary parts."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)])

"""Sizes by rule: a network scaled to a multiple of its multiply-adds, along its axes.

Dollár et al., 2021, "Fast and Accurate Model Scaling", https://arxiv.org/abs/2103.06877.
Reference: https://github.com/facebookresearch/pycls (MIT), pycls/models/scaler.py and blocks.py.

Depth, width and resolution multiply the work by d * w^2 * r^2, and the values that layers give, which is what memory
traffic and so the time on an accelerator follow, by d * w * r^2: width is the cheapest axis. Fast scaling gives it most
and the others a little, ``d1_w8_g8_r1``: its values grow with the work to the power of 0.6, with width alone 0.5, with
all three equally 5 / 6.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

FAST = 'd1_w8_g8_r1'
_AXES = 'dwgr'


class Factors(NamedTuple):
    """By what each axis is multiplied: depth, width, width of the groups of convolutions, side of the image."""

    depth: float
    width: float
    group: float
    resolution: float


def factors(kind: str, work: float) -> Factors:
    """Returns the factors with depth * width^2 * resolution^2 = `work`.

    Args:
        kind: what each axis gets of the exponent, axes by their letters d, w, g, r: ``d1_w8_g8_r1``, or ``dwr`` for
            equal parts. Groups are not counted in the sum.
        work: by what the multiply-adds are multiplied.

    Raises:
        ValueError: `kind` is not written so, or `work` is not above 0.
    """
    if work <= 0:
        raise ValueError(f'a network is scaled by {work:g} of its work: use a number above 0, such as 4.')
    parts = dict.fromkeys(_AXES, 0.0) | _parts(kind)
    total = parts['d'] + parts['w'] + parts['r'] or parts['g'] / 2 or 1.0
    exponents = (parts['d'] / total, *(parts[axis] / total / 2 for axis in 'wgr'))
    return Factors(*(work**exponent for exponent in exponents))


def _parts(kind: str) -> dict[str, float]:
    terms = [term + '1' for term in kind] if kind.isalpha() else kind.split('_')
    found = [re.fullmatch(rf'([{_AXES}])([0-9]+(?:\.[0-9]+)?)', term) for term in terms]
    if not all(found):
        raise ValueError(f'{kind!r} is no kind of scaling: write axes d, w, g, r and their parts as in {FAST!r}.')
    return {match[1]: float(match[2]) for match in found if match}


def scaled_depths(depths: Sequence[int], by: Factors) -> tuple[int, ...]:
    """Returns the blocks of each stage, at least one."""
    return tuple(max(1, round(depth * by.depth)) for depth in depths)


def scaled_widths(widths: Sequence[int], by: Factors) -> tuple[int, ...]:
    """Returns the channels of each stage, in multiples of 8."""
    return tuple(8 * max(1, round(width * by.width / 8)) for width in widths)


def scaled_groups(groups: Sequence[int], by: Factors) -> tuple[int, ...]:
    """Returns the channels of a group in each stage: 1, 2, 4, or multiples of 8."""
    rounded = (max(1, round(group * by.group)) for group in groups)
    return tuple(group if group <= 2 else 4 if group <= 5 else 8 * round(group / 8) for group in rounded)


def scaled_side(side: int, by: Factors) -> int:
    """Returns the side of the image, a multiple of 4 pixels."""
    return 4 * round(side * by.resolution / 4)


def fitted(
    widths: Sequence[int], groups: Sequence[int], ratios: Sequence[float] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns widths and widths of groups, changed so that groups divide the convolutions that have them.

    Args:
        widths: channels of each stage.
        groups: channels of a group in each stage.
        ratios: channels of the convolutions with groups over those of the stage, by stage; by default 1.
    """
    ratios = ratios or [1] * len(widths)
    inner = [int(max(1, width * ratio)) for width, ratio in zip(widths, ratios, strict=True)]
    groups = [min(group, width) for group, width in zip(groups, inner, strict=True)]
    steps = [math.lcm(group, int(ratio)) if ratio > 1 else group for group, ratio in zip(groups, ratios)]
    inner = [max(step, round(width / step) * step) for width, step in zip(inner, steps)]
    return tuple(int(width / ratio) for width, ratio in zip(inner, ratios)), tuple(groups)

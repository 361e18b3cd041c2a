"""RegNet and fast scaling: sizes by pycls's own count, and how work and values grow with each kind of scaling."""

import functools
import math

import jax
import pytest
from flax import linen as nn
from flax import traverse_util

from longview import modelzoo
from longview.counting import multiply_adds
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import scaling
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.vision import regnet
from tests.modelzoo.tiny import deep_ones_heavy, shapes

# Parameters, multiply-adds and values that convolutions and linear layers give, at 224 pixels: model_complexity.json
# of pycls.
COUNTS = {
    'regnetx_002': (2684792, 199040872, 2164056),
    'regnetx_004': (5157512, 397678568, 3143272),
    'regnetx_006': (6196040, 600891112, 3975096),
    'regnetx_008': (7259656, 799700712, 5148744),
    'regnetx_016': (9190136, 1602850792, 7933512),
    'regnetx_032': (15296552, 3176622952, 11367432),
    'regnetx_040': (22118248, 3964499816, 12201608),
    'regnetx_064': (26209256, 6460292264, 16369744),
    'regnetx_080': (39572648, 7995133416, 14059688),
    'regnetx_120': (46106056, 12086679016, 21366568),
    'regnetx_160': (54278536, 15940756456, 25515496),
    'regnetx_320': (107811560, 31735930792, 36302160),
    'regnety_002': (3162996, 199519076, 2168052),
    'regnety_004': (4344144, 401849056, 3892496),
    'regnety_006': (6055160, 601227608, 4334296),
    'regnety_008': (6263168, 797183328, 5249888),
    'regnety_016': (11202430, 1612087326, 8044814),
    'regnety_032': (19436338, 3176496162, 11263418),
    'regnety_040': (20646656, 3973301344, 12287200),
    'regnety_064': (30583252, 6355221876, 16407188),
    'regnety_080': (39180068, 7963074196, 17968916),
    'regnety_120': (51822544, 12092395504, 21384496),
    'regnety_160': (83590140, 15911534044, 23041228),
    'regnety_320': (145046770, 32279583362, 30261570),
}


@functools.cache
def cost(backbone: nn.Module, side: int) -> tuple[int, int]:
    """Returns the multiply-adds of an image and the values of all convolutions and linear layers."""
    values = []

    def record(call, args, kwargs, context):
        found = call(*args, **kwargs)
        if isinstance(context.module, (Conv, Dense)) and context.method_name == '__call__':
            values.append(math.prod(found.shape))
        return found

    x = jax.ShapeDtypeStruct((1, side, side, 3), 'float32')
    variables = jax.eval_shape(backbone.init, jax.random.key(0), x)
    with nn.intercept_methods(record):
        return multiply_adds(backbone.apply, variables, x), sum(values)


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_costs_are_the_reference_s(name):
    """The reference counts the sums with biases, too."""
    flat = traverse_util.flatten_dict(shapes(name).params, sep='/')
    biases = sum(leaf.size for path, leaf in flat.items() if path.endswith('/bias') and '/norm/' not in path)
    backbone = modelzoo.backbone(name)
    work, values = cost(backbone, 224)
    parameters = sum(leaf.size for leaf in flat.values())
    assert (parameters, work + backbone.channels[-1] * 1000 + biases, values + 1000) == COUNTS[name]


def test_stages_are_where_widths_are_equal():
    assert regnet.stages(48, 27.89, 2.09, 16) == ((48, 104, 208, 440), (1, 3, 6, 6))


def test_groups_divide_the_widths_of_every_network():
    for name in modelzoo.list_models('regnet*'):
        backbone = modelzoo.backbone(name)
        assert not any(width % group for width, group in zip(backbone.widths, backbone.groups, strict=True)), name


# By which power of the work the values grow, as the paper has it.
POWERS = {'w': 1 / 2, 'dwr': 5 / 6, scaling.FAST: 0.6}


@pytest.mark.parametrize('kind', POWERS)
def test_work_and_values_grow_as_the_kind_of_scaling_says(kind):
    """Those of the network within a tenth of the power: sizes are rounded, and the stem is as wide as before."""
    by = scaling.factors(kind, 4.0)
    assert by.depth * by.width**2 * by.resolution**2 == pytest.approx(4)
    assert by.depth * by.width * by.resolution**2 == pytest.approx(4 ** POWERS[kind])
    before = cost(modelzoo.backbone('regnety_004'), 224)
    after = cost(regnet.scaled(work=4.0, kind=kind), scaling.scaled_side(224, by))
    work, values = (math.log(many / one, 4) for one, many in zip(before, after, strict=True))
    assert work == pytest.approx(1, abs=0.1) and values == pytest.approx(POWERS[kind], abs=0.1)


def test_a_network_that_is_not_scaled_is_the_same():
    assert regnet.scaled('regnetx_032', work=1.0) == modelzoo.backbone('regnetx_032')


@pytest.mark.parametrize(
    'kind, work, words',
    [
        ('d1_z2', 2.0, "'d1_z2' is no kind of scaling: write axes d, w, g, r and their parts as in 'd1_w8_g8_r1'"),
        ('', 2.0, "'' is no kind of scaling"),
        ('d', 0.0, 'a network is scaled by 0 of its work: use a number above 0, such as 4'),
    ],
)
def test_other_kinds_and_factors_are_refused(kind, work, words):
    with pytest.raises(ValueError, match=words):
        scaling.factors(kind, work)

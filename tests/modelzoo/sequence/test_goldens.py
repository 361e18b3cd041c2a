"""Networks and layers for sequences against what the published implementations answer; see tests/goldens."""

import pytest

from tests import goldens

FAMILY = 'modelzoo.sequence'


def _zoology(mixer: str, **options: int) -> dict:
    return {
        'fn': f'{FAMILY}.zoology:zoology',
        'mixer': mixer,
        'width': 48 if mixer == 'based' else 32,
        'vocabulary': 128,
        'mlp': True,
        'options': options,
    }


# Golden: what ours is, and what it passes with; the bars of the comparison itself are 1e-4 and 1e-3.
CASES = {
    'mamba1_lm_small': (
        {'fn': 'modelzoo:backbone', 'variant': 'mamba_130m', 'width': 64, 'depth': 2, 'vocabulary': 256, 'tied': False},
        (5e-5, 0),
    ),
    'gla_lm_small': (
        {
            'fn': 'modelzoo:backbone',
            'variant': 'gla_340m',
            'width': 64,
            'depth': 2,
            'vocabulary': 256,
            'mixer': {'heads': 2},
        },
        (2e-5, 0),
    ),
    'gla_layer': ({'fn': f'{FAMILY}.gla:GatedLinearAttention', 'heads': 2}, (1e-5, 1e-5)),
    's4d_layer': ({'fn': f'{FAMILY}.s4d:S4D', 'states': 16}, (1e-5, 1e-5)),
    's4d_classifier': ({'fn': 'modelzoo:backbone', 'variant': 's4d_example', 'width': 32, 'depth': 2}, (1e-5, 1e-5)),
    'sgconv_layer': ({'fn': f'{FAMILY}.sgconv:SGConv', 'places': 256, 'band': 32}, (1e-5, 1e-5)),
    'sgconv_classifier': (
        {
            'fn': 'modelzoo:backbone',
            'variant': 'sgconv_example',
            'width': 32,
            'depth': 2,
            'mixer': {'places': 256, 'band': 32, 'bidirectional': True},
        },
        (1e-5, 1e-5),
    ),
    'long_conv_layer': ({'fn': f'{FAMILY}.long_conv:LongConv', 'places': 128, 'squash': 0.005}, (1e-5, 1e-5)),
    'long_conv_classifier': (
        {
            'fn': 'modelzoo:backbone',
            'variant': 'long_conv_example',
            'width': 32,
            'depth': 2,
            'mixer': {'places': 256, 'squash': 0.003, 'bidirectional': True},
        },
        (1e-5, 1e-5),
    ),
    'zoology_attention': (_zoology('attention', heads=2), (2e-5, 0)),
    'zoology_based': (_zoology('based'), (2e-5, 0)),
    'zoology_baseconv': (_zoology('baseconv'), (2e-5, 0)),
    'zoology_hyena': (_zoology('hyena'), (2e-5, 0)),
    'zoology_h3': (_zoology('h3', states=8), (2e-5, 0)),
    'zoology_mamba': (_zoology('mamba'), (2e-5, 0)),
    'zoology_rwkv4': (_zoology('rwkv4'), (2e-5, 0)),
    'hyena_operator': ({'fn': 'modelzoo.layers.mixers.hyena:Hyena', 'places': 128, 'hidden': 16}, (1e-5, 1e-5)),
}


@pytest.mark.parametrize('name', CASES)
def test_ours_agrees_with_the_golden(name):
    build, (output, gradient) = CASES[name]
    report = goldens.compare(goldens.read(goldens.FOLDER / f'{name}.json.gz'), build)
    assert report.passed, str(report)
    assert report.output < output and report.gradient <= gradient, str(report)

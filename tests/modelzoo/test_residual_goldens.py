"""Networks with other residual connections against what the published implementations answer; see tests/goldens."""

import pytest

from tests import goldens
from tests.modelzoo import residual_networks

NETWORKS = 'tests.modelzoo.residual_networks'
# Golden: what ours is, and what it passes with; the bars of the comparison itself are 1e-4 and 1e-3.
CASES = {
    'rezero_transformer': ({'fn': f'{NETWORKS}:rezero'}, (1e-5, 1e-5)),
    'fixup_resnet20': ({'name': 'fixup_resnet20'}, (1e-5, 1e-5)),
    'hyper_connections_vit': ({'fn': f'{NETWORKS}:hyper'}, (1e-4, 5e-4)),  # the reference's own reruns differ by 4e-5
    'frac_connections_vit': ({'fn': f'{NETWORKS}:frac'}, (1e-5, 1e-5)),
    'laurel_gemma3n': (
        {
            'fn': 'modelzoo.layers.residuals.laurel:LowRank',
            'rank': 16,
            'norm': {'partial': 'modelzoo.layers.norms.norm:RMSNorm', 'epsilon': 1e-6},
        },
        (1e-5, 1e-5),
    ),
    'ortho_vit_small': ({'fn': f'{NETWORKS}:OrthoViT'}, (1e-5, 1e-5)),
    'ortho_preactresnet18': ({'fn': f'{NETWORKS}:OrthoResNet'}, (1e-5, 1e-5)),
    'resformer_small': (
        {
            'fn': 'modelzoo.sequence.resformer:resformer',
            'variant': 'resformer_test',
            'width': 64,
            'depth': 4,
            'heads': 4,
            'vocabulary': 128,
        },
        (2e-5, 0),
    ),
    'svformer_small': (
        {
            'fn': 'modelzoo.sequence.resformer:resformer',
            'variant': 'svformer_test',
            'width': 64,
            'depth': 4,
            'heads': 4,
            'vocabulary': 128,
        },
        (2e-5, 0),
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_ours_agrees_with_the_golden(name, monkeypatch):
    build, (output, gradient) = CASES[name]
    if name in residual_networks.NAMES:
        monkeypatch.setattr(goldens, '_names', lambda model: residual_networks.NAMES[name])
    report = goldens.compare(goldens.read(goldens.FOLDER / f'{name}.json.gz'), build)
    assert report.passed, str(report)
    assert report.output < output and report.gradient <= gradient, str(report)

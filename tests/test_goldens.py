"""Ours against what the published implementations answer, row by row of tests/goldens/table.py."""

import json

import pytest

from tests import goldens
from tests.goldens import __main__ as commandline
from tests.goldens import functions, table
from tests.goldens.functions import Function, FunctionReport
from tests.goldens.networks import noise_of


def rows(of: dict) -> list:
    return [pytest.param(name, marks=[pytest.mark.heavy] * row.heavy) for name, row in of.items()]


@pytest.mark.parametrize('name', rows(table.NETWORKS))
def test_networks_agree(name):
    report = goldens.compare(goldens.read(goldens.FOLDER / f'{name}.json.gz'), table.NETWORKS[name])
    assert report.passed, str(report)


@pytest.mark.parametrize('name', rows(table.FUNCTIONS))
def test_functions_agree(name):
    report = functions.compare(goldens.read(goldens.FUNCTIONS / f'{name}.json.gz'), table.FUNCTIONS[name])
    assert report.passed, str(report)


def test_every_file_has_a_row_and_every_row_a_file():
    files = lambda folder: {path.name.removesuffix('.json.gz') for path in folder.glob('*.json.gz')}
    assert files(goldens.FOLDER) == table.NETWORKS.keys() | table.DATA.keys()
    assert files(goldens.FUNCTIONS) == set(table.FUNCTIONS)


def test_filling_follows_the_rule():
    assert abs(goldens.fill('input', (4000,)).std() - 1) < 0.05
    assert abs(goldens.fill('cotangent', (40, 100)).std() - 1) < 0.05
    assert abs(goldens.fill('blocks.0.mlp.weight', (400, 100)).std() * 10 - 1) < 0.02
    assert abs(goldens.fill('norm.weight', (4000,)).mean() - 1) < 0.01
    assert abs(goldens.fill('pos_embed', (1, 50, 80)).std() * 4000**0.5 - 1) < 0.05
    assert abs(goldens.fill('head.bias', (4000,)).std() - 0.1) < 0.01
    assert abs(goldens.fill('bn.running_mean', (4000,)).std() - 0.1) < 0.01
    assert goldens.fill('bn.running_var', (4000,)).min() >= 1


def test_a_report_fails_on_any_of_its_three_figures():
    good = goldens.Report('x', 3, 3, 1e-5, 1e-4)
    assert good.passed and str(good).endswith('pass')
    for change in ({'parameters': 4}, {'output': 2e-4}, {'gradient': 2e-3}, {'output': float('nan')}):
        assert not good._replace(**change).passed
    assert noise_of('first-64 max abs difference / max = 0.006, l2 relative = 0.0001.') == 0.006


@pytest.mark.parametrize('change', [{'epsilon': 2e-3}, {'epsilon': 1e-3, 'momentum': 0.5}])
def test_a_layer_that_differs_is_told_from_one_that_does_not(change):
    """No bar, and no neighbour of the input, hides a constant that is wrong; the momentum counts in training only."""
    build = {'fn': 'modelzoo.layers.norms.evonorm:EvoNormB0', **change}
    report = goldens.compare(goldens.read(goldens.FOLDER / 'evonorm_b0.json.gz'), goldens.Network(build))
    assert report.passed == (change['epsilon'] == 1e-3)


def test_a_network_is_found_by_its_name_or_made_by_a_function():
    made = goldens.network(num_classes=10, fn='modelzoo:backbone', variant='pvt_v2_b1', patch=2)
    assert made == goldens.network(num_classes=10, name='pvt_v2_b1', patch=2)
    with pytest.raises(ValueError, match="there is no model 'pvt_v2_b9': did you mean pvt_v2_b"):
        goldens.network(num_classes=10, fn='modelzoo:backbone', variant='pvt_v2_b9')


def test_a_function_report_fails_on_any_output_gradient_or_shape():
    good = FunctionReport('x', {'loss': 1e-6}, {'z': 1e-5})
    assert good.passed and str(good).endswith('pass')
    assert not good._replace(outputs={'loss': 1e-4}).passed and not good._replace(gradients={'z': 1e-3}).passed
    assert not good._replace(outputs={}).passed and not good._replace(outputs={'loss': float('nan')}).passed


def product(a, b, times=1.0):
    return {'sum': (a * b).sum() * times, 'order': a.argsort()}


def test_a_function_is_called_by_the_names_of_its_row():
    encoded = lambda array: {'shape': list(array.shape), 'float32_le_base64': _base64(array)}
    a, b = (goldens.draw(f'toy/{name}', (5,)) for name in ('x', 'b'))
    golden = {
        'name': 'toy',
        'settings': {'scale': 2.0},
        'inputs': {'x': {'shape': [5], 'kind': 'normal'}, 'b': {'shape': [5], 'kind': 'normal'}},
        'outputs': {'sum': encoded(2 * (a * b).sum()), 'order': {'shape': [5], 'integers': a.argsort().tolist()}},
        'gradients': {'x': encoded(2 * b)},
    }
    row = Function('tests.test_goldens:product', {'a': 'x'}, {'times': 'scale'})
    report = functions.compare(golden, row)
    assert report.passed and set(report.outputs) == {'sum', 'order'} and set(report.gradients) == {'x'}
    assert not functions.compare(golden, row._replace(settings={}, constants={'times': 2.1})).passed
    with pytest.raises(ValueError, match='the golden toy has no input z; it has x, b'):
        functions.compare(golden, row._replace(arguments={'a': 'z'}))


def _base64(array) -> str:
    import base64

    return base64.b64encode(array.astype('<f4').tobytes()).decode()


def test_the_command_prints_a_line_for_each_and_tells_failure(capsys, monkeypatch):
    reports = iter([goldens.Report('a', 3, 3, 1e-6, 1e-6), goldens.Report('b', 3, 4, 1e-6, 1e-6)])
    built = []
    monkeypatch.setattr(commandline.networks, 'compare', lambda golden, row: built.append(row.build) or next(reports))
    path = str(goldens.FOLDER / 'vig_tiny.json.gz')
    assert commandline.main([path, 'vig_tiny', '--build', '{"name": "vig_tiny"}']) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith('pass') and second.endswith('FAIL')
    assert built == [{'name': 'vig_tiny'}] * 2


def test_the_command_runs_a_file_by_the_row_of_another(capsys):
    path = str(goldens.FOLDER / 'frac_connections_vit.json.gz')
    assert commandline.main([path, '--like', 'frac_connections_vit']) == 0
    with pytest.raises(SystemExit):
        commandline.main([path, '--like', 'nobody'])
    assert '--like=nobody: no row of the table has this name' in capsys.readouterr().err


def test_the_command_runs_functions_by_name_by_like_and_by_build(capsys):
    assert commandline.main(['im2win_conv_stride2', 'scatsimclr_ntxent']) == 0
    path = str(goldens.FUNCTIONS / 'im2win_conv_stride2.json.gz')
    assert commandline.main([path, '--like', 'im2win_conv']) == 0
    row = {'fn': 'tests.goldens.adapters:convolution', 'only': ['output'], 'gradients': False}
    assert commandline.main([path, '--build', json.dumps({**row, 'constants': {'stride': 1}})]) == 1
    assert capsys.readouterr().out.count('pass') == 3
    with pytest.raises(SystemExit):
        commandline.main([str(goldens.FUNCTIONS / 'stochastic_depth.json.gz'), '--build', '{"fn": "jax.nn:relu"}'])
    assert 'jax.nn:relu reads no branch, gates, which the golden stochastic_depth has' in capsys.readouterr().err

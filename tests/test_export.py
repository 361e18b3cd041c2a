"""Networks of finished runs as files: read again, described, and as programs without any of our code."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import export, modelzoo, train
from longview.engine import stablehlo
from longview.engine.stablehlo import Column
from longview.kernels import dispatch
from longview.kernels.dispatch import Form
from longview.methods.task import Network
from longview.modelzoo import weight_files, weights
from longview.modelzoo.__main__ import example
from longview.modelzoo.denoisers.edm import UNet
from longview.modelzoo.features import SequenceBackbone
from longview.modelzoo.heads import Classifier
from longview.modelzoo.heads.detect import Fcos
from longview.modelzoo.heads.segment import MlpDecoder
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.modelzoo.points.pointnet import PointNet
from longview.modelzoo.text.transformer import Transformer
from longview.runtime.checkpoint import Checkpoints
from longview.runtime.nodes import node_of
from longview.trees import by_path
from tests import toys
from tests.kernels import cpu, tpu
from tests.modelzoo.tiny import filled, jit
from tests.runs import ROOT, quickly, rows

TINY = modelzoo.list_models('*_test')
STEP = 4
# Of traces: no other side of an array is as long.
BATCH = 13
NORMALIZE = {'fn': 'methods.augment:Normalize', 'mean': [0.5], 'std': [0.25]}


def image(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 8, 8, 1)).astype(np.float32)


def network(name: str = 'wrn_test', **fields: Any) -> Network:
    model = modelzoo.create_model(name, 10, **fields)
    return Network(model, filled(model, image()))


def run(workdir: pathlib.Path, **networks: Network) -> pathlib.Path:
    """Makes a workdir as a run on digits leaves it, with these networks in its best checkpoint."""
    workdir.mkdir(parents=True)
    (workdir / 'config.json').write_text(json.dumps(toys.config(eval_transforms=[NORMALIZE]).to_dict()))
    figures = [{'step': STEP, 'eval/accuracy': 0.875, 'train/loss': 0.1}, {'step': 8, 'eval/accuracy': 0.5}]
    (workdir / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, figures)))
    if not networks:
        return workdir
    checkpoints = Checkpoints(workdir)
    variables = {name: jax.tree.map(jnp.asarray, each.variables) for name, each in networks.items()}
    checkpoints.save_best(STEP, None, variables, {name: node_of(each.module) for name, each in networks.items()})
    checkpoints.close()
    return workdir


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of runs: of one network, of two, and of none."""
    folder = tmp_path_factory.mktemp('runs')
    run(folder / 'one', network=network())
    run(folder / 'two', image=network(), text=network('resnet_cifar_test'))
    run(folder / 'none')
    return folder


def assert_same(found: Network, wanted: Network) -> None:
    assert node_of(found.module) == node_of(wanted.module)
    chex.assert_trees_all_equal(found.variables, jax.device_get(wanted.variables))
    chex.assert_trees_all_equal_dtypes(found.variables, wanted.variables)


# --- weights ---


def test_a_network_of_a_family_has_its_published_names_and_is_read_again(runs, tmp_path):
    assert export.export(runs / 'one', tmp_path / 'out') == [tmp_path / 'out']
    model, variables = network()
    weights.save(model, variables, tmp_path / 'wanted.safetensors')
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == (tmp_path / 'wanted.safetensors').read_bytes()
    assert_same(export.load(tmp_path / 'out'), network())


@pytest.mark.parametrize(
    'made',
    [
        lambda: network('vit_test', image_size=8, residual=ReZero),  # the published one has no such scales
        lambda: Network(toys.Net(4), filled(toys.Net(4), image())),
    ],
)
def test_any_other_network_has_our_paths_and_is_read_again(made, tmp_path):
    wanted = made()
    export.export(run(tmp_path / 'run', network=wanted), tmp_path / 'out')
    assert weight_files.shapes(tmp_path / 'out' / 'model.safetensors').keys() == by_path(wanted.variables).keys()
    assert_same(export.load(tmp_path / 'out'), wanted)


def test_each_of_several_networks_gets_a_folder_and_one_alone_the_whole(runs, tmp_path):
    assert export.export(runs / 'two', tmp_path / 'all') == [tmp_path / 'all' / 'image', tmp_path / 'all' / 'text']
    assert export.export(runs / 'two', tmp_path / 'text', 'text') == [tmp_path / 'text']
    for folder in ('all/text', 'text'):
        assert_same(export.load(tmp_path / folder), network('resnet_cifar_test'))


def test_a_run_that_was_trained(tmp_path):
    config = toys.config(steps=2, eval_every=2)
    config.task.backbone = {'fn': 'tests.toys:Net', 'width': 4}
    with quickly():
        train.train(config, tmp_path / 'run')
    export.export(tmp_path / 'run', tmp_path / 'out')
    accuracy = rows(tmp_path / 'run')[-1]['eval/accuracy']
    assert f'| eval/accuracy | {accuracy:.6g} |' in (tmp_path / 'out' / 'README.md').read_text()
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['steps'] == 2


# --- the model card ---


def code(page: pathlib.Path) -> list[str]:
    return re.findall(r'^```python\n(.*?)^```', page.read_text(), re.M | re.S)


def test_a_card_has_the_facts_and_code_that_runs(runs, tmp_path):
    (folder,) = export.export(runs / 'one', tmp_path / 'out')
    card = (folder / 'README.md').read_text()
    count = sum(leaf.size for leaf in jax.tree.leaves(network().variables['params']))
    assert f'| parameters | {count:,} |' in card and f'| step of the weights | {STEP} |' in card
    assert '| eval/accuracy | 0.875 |' in card and 'train/loss' not in card
    assert 'WideResNet (longview.modelzoo.vision.resnet) with the head Linear' in card
    assert f'in this order:\n\n1. `{json.dumps(NORMALIZE)}`' in card
    assert '`methods.supervised:Supervised`' in card and '| data | digits |' in card
    (loading,) = code(folder / 'README.md')
    found = {'image': jnp.asarray(image())}
    exec(loading, found)
    model, variables = network()
    np.testing.assert_array_equal(found['answers']['logits'], model.apply(variables, found['image'])['logits'])


# --- programs ---

# Runs a card's last block where nothing of ours can be imported.
ALONE = """
import sys
sys.meta_path.insert(0, type('Blocked', (), {'find_spec': lambda name, *_: exec('raise ImportError(name)')
    if name.split('.')[0] in ('longview', 'flax') else None}))
import jax.numpy as jnp, numpy as np
image = np.load(sys.argv[1])
exec(sys.stdin.read())
np.save(sys.argv[2], answers['logits'])
"""


def test_a_program_answers_the_same_without_our_code(runs, tmp_path):
    folder, env = tmp_path / 'out', {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    options = [runs / 'one', folder, '--stablehlo', '--platforms=cpu']
    subprocess.run([sys.executable, 'export.py', *options], cwd=ROOT, env=env, check=True, capture_output=True)
    _, alone = code(folder / 'README.md')
    np.save(tmp_path / 'image.npy', image())
    command = [sys.executable, '-I', '-c', ALONE, tmp_path / 'image.npy', tmp_path / 'logits.npy']
    subprocess.run(command, input=alone, cwd=tmp_path, env=env, text=True, check=True)
    model, variables = network()
    wanted = jax.device_get(jit(model.apply)(variables, image())['logits'])
    chex.assert_trees_all_close(np.load(tmp_path / 'logits.npy'), wanted, rtol=1e-4, atol=1e-5)


def test_programs_for_sizes_and_platforms_replace_those_before(runs, tmp_path):
    programs = lambda folder: {path.name for path in folder.glob('*.stablehlo')}
    (folder,) = export.export(runs / 'one', tmp_path / 'out', programs=export.Programs(['cpu', 'tpu', 'cuda']))
    assert programs(folder) == {f'model.{name}.stablehlo' for name in ('cpu', 'tpu', 'cuda')}
    wanted = export.Programs(['tpu'], [1, 8], [Column('image', (16, 12, 1), 'float32')], ['pooled', 'stage0'])
    export.export(runs / 'one', tmp_path / 'out', programs=wanted, overwrite=True)
    assert programs(folder) == {'model.tpu.batch1.stablehlo', 'model.tpu.batch8.stablehlo'}
    read = jax.export.deserialize(bytearray((folder / 'model.tpu.batch8.stablehlo').read_bytes()))
    assert read.platforms == ('tpu',)
    # A program's first arguments are the weights, of which it keeps those that the outputs depend on.
    assert read.in_avals[-1].shape == (8, 16, 12, 1) and read.in_avals[-1].dtype == jnp.float32
    assert read.out_tree.unflatten([aval.shape for aval in read.out_avals]).keys() == {'pooled', 'stage0'}
    export.export(runs / 'one', tmp_path / 'out', overwrite=True)
    assert not programs(folder) and not (folder / 'arguments.safetensors').exists()


def inputs(module: nn.Module) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of some examples for a tiny network of the zoo."""
    return [
        example(module.backbone, (1, 32) if isinstance(module.backbone, SequenceBackbone) else (16, 16), batch=BATCH)
    ]


def zoo(name: str) -> tuple[nn.Module, list[jax.ShapeDtypeStruct]]:
    model = modelzoo.create_model(name, 7)
    return model, inputs(model)


def others() -> dict[str, tuple[nn.Module, list[jax.ShapeDtypeStruct]]]:
    """Networks and heads that are not in the zoo's list, by name, with the shapes of some examples that they read."""
    of = lambda dtype, *shape: jax.ShapeDtypeStruct((BATCH, *shape), dtype)
    pyramid = modelzoo.backbone('resnet_test')
    return {
        'text': (Transformer(11, 8, 2, 2, 6), [of('int32', 6), of('bool', 6)]),
        'points': (PointNet((8,), (8,)), [of('float32', 5, 2), of('bool', 5)]),
        'denoiser': (
            UNet(8, multiples=(1, 2), depth=1, classes=3),
            [of('float32', 8, 8, 3), of('float32'), of('int32')],
        ),
        'segment': (Classifier(pyramid, MlpDecoder(4, 8)), [of('float32', 32, 32, 3)]),
        'detect': (Classifier(pyramid, Fcos(4, 8, groups=2)), [of('float32', 32, 32, 3)]),
    }


@pytest.mark.parametrize('name', [*TINY, *others()])
def test_a_network_takes_a_batch_whose_size_is_a_symbol(name):
    module, columns = zoo(name) if name in TINY else others()[name]
    with cpu.alone():
        wanted, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *columns)
    (size,) = jax.export.symbolic_shape('b')
    batch = [jax.ShapeDtypeStruct((size, *column.shape[1:]), column.dtype) for column in columns]
    found = jax.eval_shape(module.apply, variables, *batch)
    for array, like in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert array.shape == tuple(size if side == BATCH else side for side in like.shape)


@pytest.mark.heavy
@pytest.mark.parametrize('name', [*TINY, *others()])
def test_a_program_for_any_batch_answers_as_the_network_does(name):
    module, columns = zoo(name) if name in TINY else others()[name]
    draw = np.random.default_rng(1)
    some = [np.asarray(draw.integers(0, 2, (2, *x.shape[1:])), x.dtype) for x in columns]
    shapes = jax.eval_shape(module.init, jax.random.key(0), *columns)
    # Above zero, as variances have to be.
    variables = jax.tree.map(lambda leaf: draw.uniform(0.01, 0.2, leaf.shape).astype(leaf.dtype), shapes)
    said = [Column(f'column{n}', x.shape[1:], x.dtype.name) for n, x in enumerate(columns)]
    arrays = by_path(variables)
    made = stablehlo.program(module, arrays, said, 'cpu')
    found = jit(jax.export.deserialize(bytearray(made)).call)(arrays, *some)
    wanted = by_path(jit(module.apply)(variables, *some))
    chex.assert_tree_all_finite(found)
    for key, array in found.items():
        np.testing.assert_allclose(array, wanted['' if key == 'output' else key], rtol=2e-4, atol=2e-4)
    for platform in ('tpu', 'cuda'):
        stablehlo.program(module, arrays, said, platform)


@pytest.mark.heavy
@pytest.mark.parametrize('batch', [None, 8])
def test_a_tpu_takes_kernels_for_a_size_and_compiles_a_program_for_any(batch):
    module, columns = zoo('vig_test')
    variables = by_path(jax.eval_shape(module.init, jax.random.key(0), *columns))
    read = stablehlo.program(module, variables, [Column('image', (16, 16, 3), 'float32')], 'tpu', batch)
    program = jax.export.deserialize(bytearray(read))
    assert ('tpu_custom_call' in program.mlir_module()) == (batch is not None)
    tpu.compile_for(program.call, variables, jax.ShapeDtypeStruct((8, 16, 16, 3), 'float32'))


@pytest.mark.quick
def test_an_op_of_unknown_size_takes_the_form_for_all_platforms_and_refuses_a_named_kernel():
    split = dispatch.Split(((dispatch.BATCH, dispatch.WIDTH),), (dispatch.BATCH,))
    forms = {'xla': Form(jnp.cos), 'pallas_tpu': Form(jnp.sin, platform='tpu')}
    op = lambda name: jax.jit(lambda x: dispatch.run('op', name, forms, x, split=split))
    shape = lambda text: jax.ShapeDtypeStruct(jax.export.symbolic_shape(text), 'float32')
    text = lambda name, shape: jax.export.export(op(name), platforms=['tpu'])(shape).mlir_module()
    assert 'cosine' in text(None, shape('b, 3')) and 'sine' in text(None, shape('2, 3'))
    with pytest.raises(
        NotImplementedError, match=r"'pallas_tpu' cannot serve this call: an input has the shape \(b, 3"
    ):
        text('pallas_tpu', shape('b, 3'))


# --- the command ---


def test_the_page_s_commands_and_code_run(runs, tmp_path, monkeypatch):
    page = ROOT / 'docs' / 'export.md'
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'vig_digits').symlink_to(runs / 'one')
    commands = re.findall(r'^ {4}python -m longview\.export (.*)$', page.read_text(), re.M)
    assert len(commands) == 3
    for command in commands:
        assert export.main(shlex.split(command)) == 0
    found = {'image': jnp.asarray(image())}
    for block in code(page):
        exec(block, found)
    np.testing.assert_allclose(found['logits'], found['answers']['logits'], rtol=1e-4, atol=1e-5)


SENTENCES = {
    '{runs}/nobody {out}': 'runs.*/nobody holds no run (there is no config.json): name the workdir of one.',
    '{runs}/none {out}': 'best holds no checkpoint: train that run first',
    '{runs}/one {full}': 'full is there and not an empty folder: name another, or give --overwrite.',
    '{runs}/two {out} --network=imag': "runs.*/two has no network 'imag'; did you mean 'image'?",
    '{runs}/one {out} --stablehlo --platforms=gpu': "there is no platform 'gpu'; ",
    '{runs}/one {out} --stablehlo --batch_sizes=0': "--batch_sizes has '0': write whole numbers from 1 on",
    '{runs}/one {out} --batch_sizes=1': '--input and --outputs are about programs: give --stablehlo too.',
    '{runs}/one {out} --stablehlo --input=image': '--input=image is no column and its shape: write one as',
    '{runs}/one {out} --stablehlo --input=image=8': 'Classifier does not take the columns image float32[8] (',
    '{runs}/one {out} --stablehlo --outputs=logit': "the network has no output 'logit': --outputs may name ",
}


@pytest.mark.parametrize('command', SENTENCES)
def test_what_is_wrong_is_one_sentence(command, runs, tmp_path, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').touch()
    said = command.format(runs=runs, out=tmp_path / 'out', full=tmp_path / 'full')
    assert export.main(shlex.split(said)) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert re.search(re.escape(SENTENCES[command]).replace(r'runs\.\*', 'runs.*'), error), error
    assert not (tmp_path / 'out' / 'model.safetensors').exists()


def refused(workdir: pathlib.Path, tmp_path: pathlib.Path, capsys: Any, *options: str) -> str:
    assert export.main([str(workdir), str(tmp_path / 'out'), *options]) == 1
    return capsys.readouterr().err


def test_a_network_that_no_node_says_is_refused(tmp_path, capsys):
    workdir = run(tmp_path / 'run', network=network())
    (file,) = (workdir / 'best').glob('*/modules/metadata')
    file.write_text(json.dumps({'network': None}))
    assert 'could not say what its network network is' in refused(workdir, tmp_path, capsys)


def test_a_run_of_an_earlier_version_is_refused(tmp_path, capsys):
    workdir = run(tmp_path / 'run', network=network())
    (file,) = (workdir / 'best').glob('*/modules/metadata')
    file.unlink()
    assert 'it is of an earlier version' in refused(workdir, tmp_path, capsys)


def test_a_network_that_wants_a_number_is_refused_for_any_batch(tmp_path, capsys):
    made = Network(toys.Net(4), filled(toys.Net(4), image()))
    workdir = run(tmp_path / 'run', network=made)
    options = ['--stablehlo', '--platforms=cpu']
    error = refused(workdir, tmp_path, capsys, *options)
    assert 'Net cannot be traced for batches of any size' in error and '--batch_sizes=1,64' in error
    assert export.main([str(workdir), str(tmp_path / 'out'), *options, '--batch_sizes=2']) == 0


def test_a_data_set_that_is_not_here_asks_for_the_input(tmp_path, capsys):
    workdir = run(tmp_path / 'run', network=network())
    node = json.loads((workdir / 'config.json').read_text())
    node['data'] = {'fn': 'input_pipeline:Images', 'dataset': './nowhere'}
    (workdir / 'config.json').write_text(json.dumps(node))
    error = refused(workdir, tmp_path, capsys, '--stablehlo')
    assert 'cannot be asked for its shapes' in error and '--input=image=32,32,3' in error
    options = ['--stablehlo', '--platforms=cpu', '--input=image=8,8,1']
    assert export.main([str(workdir), str(tmp_path / 'out'), *options]) == 0

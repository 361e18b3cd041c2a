"""Every config, in every preset: it loads, it names what exists, and its network has the shapes it should."""

import functools
import importlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from longview.input_pipeline import Images
from longview.methods.task import chain, init_state
from longview.modelzoo import find
from longview.runtime.plan import Run, read_run
from longview.runtime.resolve import check, check_arguments
from longview.runtime.stages import ordered, reads
from tests.kernels import cpu

ROOT = pathlib.Path(__file__).parents[1]
# Not of a paper, and with tests of their own: a recorded config, and one that needs weights.
OTHERS = ('__init__', 'base', 'recorded', 'finetune')
NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in OTHERS)
# A paper whose own data set is not ImageNet.
FIRST = {
    'wrn_28_10': 'cifar10',
    'preact_resnet164': 'cifar10',
    'pyramidnet': 'cifar10',
    'fractalnet': 'cifar10',
    'sparsenet': 'cifar10',
    'fixup_resnet110': 'cifar10',
    'liresnet': 'cifar10',
    'hiresnet': 'cifar10',
    'skipnet': 'cifar10',
    's4': 'cifar10',
    's4d': 'cifar10',
    'sgconv': 'cifar10',
    'long_conv': 'cifar10',
    'mqar_zoology': 'paper_attention',
    'orchid_recall': 'long_correlation',
    'mamba': 'paper',
    'wavemix': 'cifar10',
    'ninformer': 'cifar10',
    'poincare_resnet': 'cifar10',
    'residual_attention': 'cifar10',
    'duoformer': 'cifar10',
    'weighted_conv': 'digits',
    'neural_ode': 'fashion_mnist',
}
# Presets of what reads words, enough for each of its sizes and mixers; the first one is the paper's.
WORDS = {
    'orchid_recall': ('long_correlation', 'small_attention', 'smoke_magnitude', 'smoke_static'),
    'mqar_zoology': (
        'paper_attention',
        'small_based_conv',
        'smoke_attention',
        'smoke_based',
        'smoke_baseconv',
        'smoke_hyena',
        'smoke_h3',
        'smoke_mamba',
        'smoke_rwkv4',
    ),
    'mamba': ('paper', 'smoke'),
}
# All presets of what reads data that a function makes, so that the data set can be asked.
MADE = {
    'clip': ('digits', 'digits_labels'),
    'detect': ('digits', 'digits_one_scale'),
    'long_range': tuple(
        task + network
        for task in ('listops', 'pathfinder', 'pixels', 'text', 'language')
        for network in ('', '_attention')
    ),
    'points': ('digits', 'digits_mean'),
    'scse': ('digits', 'channel_digits', 'spatial_digits', 'plain_digits'),
    'segment': ('digits', 'digits_pixels'),
    'sessions': ('digits', 'digits_union', 'digits_finetuning', 'digits_joint', 'digits_all'),
}
# All presets of what has stages.
STAGED = {
    'diffusion': ('digits',),
    'few_labels': ('digits',),
    'smaller': ('digits',),
    'teacher_student': ('digits',),
}
# One matrix or convolution, with its bias, or one each way; the second has it in its first stage.
LINEAR = ('segment:digits_pixels', 'ci2p_vit:encoded_digits')
# Methods: small data only, for they are about how a network learns.
METHODS = (
    'depth_mup',
    'early_exit',
    'few_shot',
    'lottery_ticket',
    'mae',
    'meal_v2',
    'pissa',
    'quantization_whitepaper',
    'rotnet',
    'sam',
    'simclr',
    'swav',
    'tract',
    'trp',
)
# These go on from another run, which has to be there.
AFTER_A_RUN = (
    'meal_v2:digits',
    'meal_v2:fashion_mnist',
    'pissa:digits',
    'pissa:fashion_mnist',
    'skipnet:hybrid_digits',
)
# Presets whose network takes long to trace; what is left checks the other presets of the same config.
DEEP = {
    'tvconv': ('imagenet', 'fashion_mnist'),
    'kronecker': ('imagenet', 'plain_conv_digits', 'without_conv_digits', 'kv_digits', 'fashion_mnist'),
    'weight_conditioning': ('imagenet', 'plain_digits', 'plain_conv_digits', 'conv_digits', 'fashion_mnist'),
    'scse': ('channel_digits', 'spatial_digits'),
    'cross_d': ('imagenet', 'fashion_mnist'),
    'weighted_conv': ('fashion_mnist',),
    'dcls': ('imagenet', 'gauss_digits', 'resnet_digits', 'plain_resnet_digits', 'fashion_mnist'),
    'maxim_s1': ('imagenet', 'conv_digits', 'fashion_mnist'),
    'prelu_net': ('imagenet', 'plain_digits', 'deep_digits', 'fashion_mnist'),
    'pf_nets': ('imagenet', 'vit_imagenet', 'depthwise_digits', 'hybrid_digits', 'random_digits', 'fashion_mnist'),
    'pre_rmsnorm': ('imagenet', 'compressed_digits', 'fashion_mnist'),
    'snnk': ('imagenet', 'plain_digits', 'full_digits', 'fashion_mnist'),
    'normformer': ('imagenet', 'plain_digits', 'fashion_mnist'),
    'hybridnorm': ('imagenet', 'plain_digits', 'fashion_mnist'),
    'crossvit_9': ('imagenet', 'fine_digits', 'coarse_digits', 'fashion_mnist'),
    'poincare_resnet': ('cifar10', 'published_digits', 'fashion_mnist'),
    'dit_routing': ('imagenet', 'fashion_mnist'),
    'duoformer': ('cifar10', 'plain_digits', 'fashion_mnist'),
    'convfirst': ('imagenet', 'plain_digits', 'mbconv_digits', 'fashion_mnist'),
    'regnet': ('d_digits', 'dwr_digits', 'fast_digits', 'fashion_mnist'),
    'efficientnet_b0': ('imagenet', 'fashion_mnist'),
    'residual_attention': ('imagenet', 'cifar10', 'fashion_mnist'),
    'lsnet_t': ('imagenet', 'taught_imagenet', 'fashion_mnist', 'smoke'),
    'shvit_s1': ('imagenet', 'fashion_mnist'),
    'iformer_small': ('imagenet', 'fashion_mnist'),
    't2t_vit_7': ('imagenet', 'plain_digits', 'fashion_mnist'),
    'stvit_small': ('imagenet', 'fashion_mnist'),
    'tic': ('imagenet', 'plain_digits', 'vit_digits', 'resnet_digits', 'plain_resnet_digits', 'fashion_mnist'),
    'transnext_micro': ('imagenet', 'fashion_mnist'),
    'sret_t': ('imagenet', 'fashion_mnist'),
    'inception_resnet_v2': ('imagenet', 'v4_digits', 'fashion_mnist'),
    'glnet_4g': ('imagenet', 'fashion_mnist'),
    'svt_s': ('imagenet', 'fashion_mnist'),
    'spartan_t': ('imagenet',),
    'repmlpnet_t224': ('imagenet',),
    'coatnet_0': ('imagenet', 'fashion_mnist'),
    'maxvit_t': ('imagenet', 'fashion_mnist'),
    'hiera_t': ('imagenet', 'fashion_mnist'),
    'pit_s': ('imagenet', 'fashion_mnist'),
    's2aformer': ('imagenet', 'fashion_mnist'),
}
FIRST |= {name: 'digits' for name in (*METHODS, *MADE, *STAGED)} | {'long_range': 'listops'}
CLASSES = {'imagenet2012': 1000, 'fake_imagenet': 1000, 'cifar10': 10, 'digits': 10, 'fashion_mnist': 10}
# The images of a preset, by how its name ends.
SHAPES = {
    'cifar10': (32, 32, 3),
    'imagenet': (224, 224, 3),
    's0': (224, 224, 3),
    'digits': (8, 8, 1),
    'fashion_mnist': (28, 28, 1),
    'smoke': (32, 32, 3),
}


def load(name: str, preset: str | None):
    return importlib.import_module(f'longview.configs.{name}').get_config(preset)


def presets(name: str) -> list[str]:
    """All presets of a config, as the sentence that refuses another one lists them."""
    with pytest.raises(ValueError) as error:
        load(name, 'none of them')
    return re.search(r'The presets are (.*)\.$', str(error.value))[1].split(', ')


def shortened(node: Any) -> Any:
    """Returns a config whose networks have at most two blocks a stage, start at random, and read few drawn examples.

    The whole networks are traced by tests/modelzoo/test_contract.py.
    """
    if isinstance(node, dict):
        node = {key: shortened(value) for key, value in node.items()}
        if isinstance(node.get('weights'), str):  # of a file
            node['weights'] = None
        if 'examples' in node:
            node['examples'] = 8
        return node | _shorter(node) if 'variant' in node else node
    return type(node)(map(shortened, node)) if isinstance(node, (list, tuple)) else node


def _shorter(node: dict[str, Any]) -> dict[str, Any]:
    """Returns the number of blocks of a network, or of each of its stages, cut to two."""
    variant = find(node['variant'])[1]
    if hasattr(variant, 'depth'):
        return {'depth': min(2, node.get('depth', variant.depth))}
    if not hasattr(variant, 'depths'):
        return {}  # its stages have one block each
    return {'depths': tuple(min(2, depth) for depth in node.get('depths', variant.depths))}


def first_runs(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the runs of a config that need no other: itself, or those of its stages that read none.

    Of the other stages, which need what is not there, the names and arguments are checked.
    """
    if 'stages' not in config:
        return [config]
    stages = {name: config['stages'][name] for name in ordered(config['stages'], config['order'])}
    for name, node in stages.items():
        check(node, name)
        if 'fn' not in node:
            check_arguments(Run, node, name, complete=True)
    return [node for node in stages.values() if 'fn' not in node and not reads(node)]


@functools.cache
def transformed(transforms: tuple, batch: tuple[tuple[str, jax.ShapeDtypeStruct], ...]) -> dict:
    """Returns what transforms make of a batch; many configs have the same, and it takes longer than the network."""
    return jax.eval_shape(chain(transforms), dict(batch), jax.random.key(0))


def each_preset() -> Iterator[Any]:
    """Yields the names of configs with their presets; those of `DEEP` are heavy."""
    for name in NAMES:
        for preset in WORDS.get(name) or presets(name):
            deep = preset in DEEP.get(name, ())
            yield pytest.param(name, preset, marks=pytest.mark.heavy) if deep else (name, preset)


@pytest.mark.parametrize('name, preset', [*each_preset()])
def test_config_builds_its_state(
    name: str, preset: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a data set that is not prepared here nothing else is asked.
    monkeypatch.setattr(Images, 'num_classes', property(lambda images: CLASSES[images.dataset]))
    for config in first_runs(load(name, preset).to_dict()):
        run, _ = read_run(shortened(config))
        check_state(run, name, preset, tmp_path, monkeypatch)


def check_state(run: Run, name: str, preset: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces the first state of a run, and asserts what all have."""
    optimizer = run.optimizer(100_000, 50.0, run.task.depth_of)
    spec = lambda dtype, *shape: jax.ShapeDtypeStruct((8, *shape), dtype)
    if name in MADE:
        batch = run.data.batch_spec(8, train=True)
    elif name in WORDS:
        batch = {k: spec('int32', 16) for k in ('words', 'label')} | {k: spec('int32') for k in ('epoch', 'index')}
    else:
        (shape,) = (shape for end, shape in SHAPES.items() if preset.endswith(end))
        halves = ('source',) * preset.startswith('search')
        batch = {'image': spec('uint8', *shape), **{k: spec('int32') for k in ('label', 'epoch', 'index', *halves)}}
    init = lambda rng, batch: init_state(run.task, optimizer.transform, rng, batch, lambda batch, rng: batch)
    batch = transformed(run.train_transforms, tuple(batch.items()))
    if f'{name}:{preset}' in AFTER_A_RUN:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match='train that run first'):
            jax.eval_shape(init, jax.random.key(0), batch)
        return
    with cpu.alone():
        state = jax.eval_shape(init, jax.random.key(0), batch)
    assert 'loss' in state.meters
    assert len(jax.tree.leaves(state.variables.params)) > (1 if f'{name}:{preset}' in LINEAR else 10)


@pytest.mark.parametrize('name', NAMES)
def test_docstring_says_paper_command_and_result(name: str) -> None:
    text = importlib.import_module(f'longview.configs.{name}').__doc__
    assert 'https://' in text and f'python train.py --config configs/{name}.py' in text and 'Published: ' in text


@pytest.mark.parametrize('name', NAMES)
def test_the_first_preset_is_the_papers_and_the_small_ones_are_there(name: str) -> None:
    first, small = FIRST.get(name, 'imagenet'), {'digits', 'fashion_mnist'}
    assert presets(name)[0] == first and load(name, None).to_dict() == load(name, first).to_dict()
    if name in METHODS:
        assert set(presets(name)) == small
    else:
        assert set(presets(name)) >= set((WORDS | MADE | STAGED).get(name, small | {'smoke'}))


def test_two_configs_share_nothing() -> None:
    """Neither a list nor a placeholder, for an override would reach both."""
    one, untouched = load('vig_s', 'smoke'), load('vig_s', 'smoke').to_dict()
    one.epochs = 3.0
    one.train_transforms[0]['magnitude'] = 1.0
    one.train_transforms.pop()
    assert load('vig_s', 'smoke').to_dict() == untouched != one.to_dict()


@pytest.mark.parametrize(
    'preset, words',
    [
        ('digit', "there is no preset 'digit'; did you mean 'digits'? The presets are digits, fashion_mnist."),
        ('xyz', "there is no preset 'xyz'; The presets are digits, fashion_mnist."),
    ],
)
def test_an_unknown_preset_is_refused(preset: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        load('rotnet', preset)
    assert str(error.value) == words

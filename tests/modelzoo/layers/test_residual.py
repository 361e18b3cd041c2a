"""Residual connections in ViT, ResNet and the sequence trunk, and the properties of the initial network with each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.mixers.mamba import Mamba
from longview.modelzoo.layers.norms.norm import NoNorm
from longview.modelzoo.layers.residuals import fixup, laurel
from longview.modelzoo.layers.residuals.fixup import Fixup
from longview.modelzoo.layers.residuals.frac_connections import FracConnections
from longview.modelzoo.layers.residuals.hyper_connections import HyperConnections
from longview.modelzoo.layers.residuals.laurel import Laurel
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.orthogonal import Orthogonal
from longview.modelzoo.layers.residuals.residual import Add
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.modelzoo.layers.residuals.value_residual import SharedValue, ValueResidual
from longview.modelzoo.sequence.trunk import Trunk
from longview.modelzoo.vision.resnet import Basic, Bottleneck, ResNet
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo.tiny import filled, jit

KINDS = {
    'add': Add,
    'layer_scale': LayerScale,
    'rezero': ReZero,
    'fixup': Fixup,
    'hyper': HyperConnections,
    'hyper_static': functools.partial(HyperConnections, 2, dynamic=False),
    'frac': FracConnections,
    'frac_across': functools.partial(FracConnections, across=True),
    'laurel': functools.partial(Laurel, 4),
    'laurel_weighted': functools.partial(Laurel, 4, weighted=True),
    'orthogonal': Orthogonal,
    'value_residual': ValueResidual,
    'shared_value': SharedValue,
}
# The other kinds on a ViT are for `pytest -m heavy`: two compilations each.
LIGHT = ('hyper', 'laurel_weighted', 'value_residual', 'fixup')
# A scalar added to all channels, which every norm behind it cancels: its gradient is rounding only.
TAKEN_AWAY = {
    'fixup': tuple(
        f'block{block:02d}/{part}_residual/{place}'
        for block in (0, 1)
        for part in ('mixer', 'mlp')
        for place in ('before', 'after')
    )
}
INTO_BRANCHES = ('fixup', 'value_residual', 'shared_value')
DEPTH = 110
HE = jax.nn.initializers.he_normal()


def noise(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def image(size: int = 8, batch: int = 4) -> jax.Array:
    return noise(batch, size, size, 3)


def vit(kind: str, **options) -> ViT:
    return ViT(
        **{
            'width': 16,
            'depth': 2,
            'heads': 2,
            'patch': 4,
            'image_size': 8,
            'drop_path': 0.2,
            'residual': KINDS[kind],
            **options,
        }
    )


def answer(model, variables, x):
    """Returns the gradients of a weighted sum of the output in training with stochastic depth, and the output."""

    def loss(params, x):
        features, _ = model.apply(
            {**variables, 'params': params},
            x,
            train=True,
            mutable=['batch_stats'],
            rngs={'drop_path': jax.random.key(4)},
        )
        pooled = features['pooled']
        return jnp.sum(pooled * jnp.cos(jnp.arange(pooled.size)).reshape(pooled.shape)), pooled

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables['params'], x)


def assert_alive(gradients, taken_away: tuple[str, ...] = ()) -> None:
    for path, gradient in traverse_util.flatten_dict(jax.device_get(gradients), sep='/').items():
        assert np.isfinite(gradient).all(), path
        assert abs(gradient).max() < 1e-4 if path in taken_away else abs(gradient).max() > 0, path


@pytest.mark.parametrize(
    'kind', [kind if kind in LIGHT else pytest.param(kind, marks=pytest.mark.heavy) for kind in KINDS]
)
def test_on_a_vit_every_parameter_learns_and_running_otherwise_changes_no_number(kind):
    model, x = vit(kind), image()
    variables = filled(model, x)
    wanted = jax.device_get(jit(functools.partial(answer, model))(variables, x))
    assert_alive(wanted[0][0], TAKEN_AWAY.get(kind, ()))
    other = vit(kind, remat=True, scan=kind != 'shared_value')
    ours = jax.device_get(jit(functools.partial(answer, other))(variables, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(1, abs(b).max())), ours, wanted)


def heavy(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.heavy)


@pytest.mark.parametrize(
    'block, kind',
    [
        (Basic, 'hyper'),
        (Bottleneck, 'rezero'),
        heavy(Bottleneck, 'hyper'),
        heavy(Basic, 'frac'),
        heavy(Basic, 'laurel_weighted'),
        heavy(Basic, 'orthogonal'),
    ],
)
def test_on_a_resnet_every_parameter_learns(block, kind):
    model = ResNet((1, 2), (8, 16), block, stem_width=8, stem_stride=1, drop_path=0.1, residual=KINDS[kind])
    x = image(6, 3)
    (gradients, _), _ = jit(functools.partial(answer, model))(filled(model, x), x)
    assert_alive(gradients)


@pytest.mark.parametrize(
    'kind, pre_norm',
    [
        ('hyper', True),
        pytest.param('rezero', False, marks=pytest.mark.quick),
        ('fixup', True),
        ('value_residual', True),
        ('shared_value', False),
        # Each place by itself, or as hyper-connections.
        heavy('hyper', False),
        heavy('frac', True),
        heavy('laurel', True),
        heavy('orthogonal', False),
    ],
)
def test_a_sequence_read_in_two_parts_gives_what_the_whole_gives(kind, pre_norm):
    model = Trunk(16, 2, functools.partial(CausalAttention, 2, 8), Mlp, residual=KINDS[kind], pre_norm=pre_norm)
    x = noise(2, 6, 3)
    variables = filled(model, x)

    def in_parts(variables, x):
        state = model.apply(variables, len(x), method='init_state')
        state, first = model.apply(variables, state, x[:, :4], method='extend')
        return jnp.concatenate(
            [first['tokens'], model.apply(variables, state, x[:, 4:], method='extend')[1]['tokens']], axis=1
        )

    whole, parts = jit(lambda v, x: (model.apply(v, x)['tokens'], in_parts(v, x)))(variables, x)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind, bar', [('hyper', 1e-4), ('frac', 1e-5), ('laurel', 1e-5), heavy('hyper_static', 1e-4)])
def test_some_start_as_the_plain_network(kind, bar):
    model, plain, x = vit(kind), vit('add'), image()
    values = traverse_util.flatten_dict(filled(model, x)['params'], sep='/')
    others = {path: value for path, value in values.items() if 'residual/' not in path}

    @jit
    def run():
        """Returns what both give with arbitrary parameters, but for connections with their initial values."""
        start = traverse_util.flatten_dict(model.init(jax.random.key(0), x)['params'], sep='/')
        trees = [traverse_util.unflatten_dict(flat, sep='/') for flat in (start | others, others)]
        return [net.apply({'params': tree}, x)['tokens'] for net, tree in zip((model, plain), trees)]

    assert len(others) < len(values)
    ours, wanted = run()
    np.testing.assert_allclose(ours, wanted, atol=bar)


def test_value_residuals_with_no_weight_on_the_first_values_are_the_plain_network():
    x, plain = image(), vit('add')
    variables = filled(plain, x)
    none = vit('add', residual=functools.partial(ValueResidual, 0.0, 1.0))
    some = vit('add', residual=ValueResidual)
    run = jit(lambda v, x: [m.apply(v, x)['tokens'] for m in (none, some, plain)])
    ours, theirs, wanted = jax.device_get(run(variables, x))
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert abs(theirs - wanted).max() > 1e-2


def deep_answer(kind: str, depth: int = DEPTH):
    """Returns properties of a newly initialized deep stack of blocks without norms.

    They are input, cotangent, output, gradients by block, gradient at the input, and the change of the output by a step
    of gradient descent.
    """
    parts = [functools.partial(part, kernel_init=HE) for part in (functools.partial(Attention, 2), Mlp)]
    block = PreNorm(NoNorm, *parts, functools.partial(KINDS[kind], blocks=depth))
    x = noise(2, 5, 16, seed=2)
    cotangent = jnp.asarray(np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape))

    def out(params, x):
        return jax.lax.scan(lambda s, params: (block.apply({'params': params}, s, None), None), x, params)[0]

    @jit
    def run():
        keys = jax.random.split(jax.random.key(3), depth)
        params = jax.vmap(lambda key: block.init(key, x, None)['params'])(keys)
        answer, pull = jax.vjp(out, params, x)
        gradients, at_input = pull(cotangent)
        step = jax.tree.map(lambda p, g: p - 1e-5 * g, params, gradients)
        return answer, gradients, at_input, out(step, x) - answer

    return jax.device_get((x, cotangent, *run()))


@functools.cache
def deep(kind: str):
    return deep_answer(kind)


@pytest.mark.parametrize('kind, learns', [('rezero', 'residual/scale'), ('fixup', 'mlp/down/kernel')])
def test_a_network_of_110_blocks_starts_as_the_identity_and_its_first_blocks_learn_as_the_last(kind, learns):
    x, cotangent, out, gradients, at_input, _ = deep(kind)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_array_equal(at_input, cotangent)
    sizes = [np.linalg.norm(leaf) for leaf in traverse_util.flatten_dict(gradients, sep='/')[learns]]
    # Of ten blocks each: the gradient of a single number is now and then near 0.
    assert len(sizes) == DEPTH and 0.05 < np.mean(sizes[:10]) / np.mean(sizes[-10:]) < 20


def test_the_plain_network_of_110_blocks_explodes():
    x, cotangent, out, _, at_input, _ = deep('add')
    assert not np.var(out) < 1e9 and not np.linalg.norm(at_input) < 1e6


def test_fixup_s_first_step_changes_a_deep_network_about_as_much_as_a_shallow_one_for_its_blocks():
    change = np.linalg.norm(deep('fixup')[-1]) / DEPTH
    assert 0.2 < change / (np.linalg.norm(deep_answer('fixup', 11)[-1]) / 11) < 5


def test_orthogonal_updates_are_and_keep_the_stream_from_exploding():
    s, y = noise(2, 3, 5, 16, seed=0), noise(2, 3, 5, 16)
    written = jit(lambda s, y: Orthogonal().apply({}, s, y, method='write'))(s, y)
    s, y, written = jax.device_get((s, y, written))
    update = written - s
    np.testing.assert_allclose(np.sum(update * s, axis=-1), 0, atol=1e-4)
    rest = y - update
    np.testing.assert_allclose(
        rest * np.linalg.norm(s, axis=-1, keepdims=True) ** 2,
        s * np.sum(s * y, axis=-1, keepdims=True),
        rtol=1e-3,
        atol=1e-3,
    )


def test_hyper_connections_start_by_reading_the_copies_in_turn():
    join = HyperConnections(4, block=2, branch=1, branches=2)
    s = np.asarray(noise(2, 4, 3, 8))

    @jit
    def run(s):
        variables = join.init(jax.random.key(0), s, method='read')
        return join.apply(variables, s, method='read'), join.apply(variables, s, s[:, 0], method='write')

    read, written = run(jnp.asarray(s))
    np.testing.assert_allclose(read, s[:, 5 % 4], atol=1e-6)
    np.testing.assert_allclose(written, s + s[:, :1], atol=1e-6)


def test_fixup_s_initial_values_know_the_number_of_branches():
    @jit
    def run():
        kernels = [fixup.kernel_init(64, matrices)(jax.random.key(0), (400, 300)) for matrices in (2, 3)]
        block = vit('fixup').init(jax.random.key(0), image())['params']['block01']
        return [kernel.std() for kernel in kernels], block['mlp']['down']['kernel'], block['mixer']['out']['kernel']

    spread, *last = jax.device_get(run())
    np.testing.assert_allclose(spread, [(2 / 400) ** 0.5 / 8, (2 / 400) ** 0.5 / 64**0.25], rtol=0.02)
    assert not any(kernel.any() for kernel in last)


def test_a_block_shares_rezero_s_number_unless_it_is_told_not_to():
    count = lambda residual: len(
        [
            path
            for path in traverse_util.flatten_dict(
                jax.eval_shape(vit('add', residual=residual).init, jax.random.key(0), image())['params'], sep='/'
            )
            if path.endswith('residual/scale')
        ]
    )
    assert count(ReZero) == 2 and count(functools.partial(ReZero, whole_block=False)) == 4


def test_the_default_adds_no_parameter_and_configs_choose_another():
    paths = lambda name, **options: set(
        traverse_util.flatten_dict(
            jax.eval_shape(modelzoo.create_model(name, 3, **options).init, jax.random.key(0), image(16))['params'],
            sep='/',
        )
    )
    for name in ('vit_test', 'resnet_cifar_test'):
        plain, other = paths(name), paths(name, residual=ReZero)
        assert not [path for path in plain if 'residual' in path] and plain < other
        assert all(path.endswith('residual/scale') for path in other - plain)


def start(model, x) -> None:
    jax.eval_shape(model.init, jax.random.key(0), x)


@pytest.mark.parametrize('kind', INTO_BRANCHES)
def test_a_resnet_refuses_what_reaches_into_its_branches(kind):
    with pytest.raises(NotImplementedError, match='convolutions with norms do not let it: use vision/fixup_resnet'):
        start(ResNet((1,), (8,), Basic, residual=KINDS[kind]), image())


@pytest.mark.parametrize(
    'kind, message',
    [
        ('value_residual', 'ValueResidual shares the values of attention, and Mamba has none'),
        ('fixup', 'Fixup sets how a branch starts, and Mamba has no kernel_init and out_init'),
    ],
)
def test_a_mixer_without_what_the_connection_sets_or_shares_is_refused(kind, message):
    with pytest.raises(NotImplementedError, match=message):
        start(Trunk(16, 1, Mamba, residual=KINDS[kind]), jnp.zeros((1, 4, 3)))


def test_other_mistakes_are_said_in_words():
    with pytest.raises(ValueError, match='width 16 does not divide into 3 fractions'):
        start(vit('add', residual=functools.partial(FracConnections, 3)), image())
    model = vit('shared_value', scan=True)
    with pytest.raises(NotImplementedError, match='blocks with different variables cannot run with scan'):
        jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0), image()), image())


def test_laurel_s_low_rank_part_is_the_paper_s():
    part, x = laurel.LowRank(3), noise(2, 5, 8)
    variables = filled(part, x)
    found = jit(part.apply)(variables, x)
    x, left, right = jax.device_get((x, *(variables['params'][name]['kernel'] for name in ('left', 'right'))))
    np.testing.assert_allclose(found, x + x @ left @ right, atol=1e-5)

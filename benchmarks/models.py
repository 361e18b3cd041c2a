"""Images per second of whole networks, compared with timm in PyTorch: the forward pass and a training step.

    pip install torch timm                      # in this environment, or in another one: --peer_python=/venv/bin/python
    python -m benchmarks.models [--models=vit_small_patch16_224,...] [--calls=forward] [--batch=8] [--rounds=5]

Both sides run in float32 with the same number of threads, in separate processes that run alternately: a round is ours,
theirs, ours, theirs; printed figures are medians over the rounds, also of the ratios within a round. A training step is
the gradient of the cross-entropy with random labels and an update by SGD with momentum. Our programs are compiled, and
keep their memory, as in train.py.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.peer import Peer, seconds
from longview import modelzoo
from longview.runtime import allocator, compiler

_PAIRS = {  # ours: timm's
    'resnet50': 'resnet50',
    'convnext_tiny': 'convnext_tiny',
    'vit_small_patch16_224': 'vit_small_patch16_224',
    'inceptionnext_tiny': 'inception_next_tiny',
    'swinv2_tiny_window8_256': 'swinv2_tiny_window8_256',
    'pvt_v2_b1': 'pvt_v2_b1',
}
# Other families, which have the same names in timm: --models=more.
_MORE = (
    'resnet50d',
    'ecaresnet50d',
    'resnetv2_50',
    'resnetrs50',
    'nfnet_l0',
    'ese_vovnet19b_dw',
    'dpn68',
    'inception_v4',
    'inception_resnet_v2',
    'regnety_004',
    'efficientnet_b0',
    'crossvit_9_240',
    'shvit_s1',
    'hiera_tiny_224',
    'pit_s_224',
    'coatnet_0_rw_224',
    'maxvit_tiny_tf_224',
)
_MODELS = flags.DEFINE_list('models', list(_PAIRS), 'Which of our variants, or "more" for those of _MORE.')
_CALLS = flags.DEFINE_list('calls', ['forward', 'train'], 'What to measure.')
_BATCH = flags.DEFINE_integer('batch', 8, 'Images at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Times that each side is measured.')
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads of PyTorch; ours takes what the process may run on.')
_PEER = flags.DEFINE_string('peer_python', sys.executable, 'A Python that has torch and timm.')


def ours(name: str, size: int, batch: int) -> dict[str, Callable[[], None]]:
    """Returns the two functions to time, already compiled and run once."""
    model = modelzoo.create_model(name)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)
    labels = jnp.arange(batch) % 1000
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.normal(size=leaf.shape), leaf.dtype), shapes)
    variables = {**variables, **jax.tree.map(jnp.ones_like, {k: v for k, v in variables.items() if k != 'params'})}
    optimizer = optax.sgd(0.01, momentum=0.9)
    options = compiler.forward_options(jax.devices()[0].platform)
    forward = jax.jit(lambda variables, x: model.apply(variables, x)['logits'], compiler_options=options)

    def loss(params, statistics):
        features, updates = model.apply(
            {'params': params, **statistics},
            x,
            train=True,
            mutable=['batch_stats'],
            rngs={'drop_path': jax.random.key(2)},
        )
        return optax.softmax_cross_entropy_with_integer_labels(features['logits'], labels).mean(), updates

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, statistics, state):
        gradients, statistics = jax.grad(loss, has_aux=True)(params, statistics)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), statistics, state

    held = [
        jax.tree.map(jnp.copy, variables['params']),
        {kind: jax.tree.map(jnp.copy, tree) for kind, tree in variables.items() if kind != 'params'},
    ]
    held.append(optimizer.init(held[0]))

    def train() -> None:
        held[:] = step(*held)
        jax.block_until_ready(held)

    calls = {'forward': lambda: jax.block_until_ready(forward(variables, x)), 'train': train}
    calls = {kind: calls[kind] for kind in _CALLS.value}
    for call in calls.values():
        call()
    return calls


def rows(name: str) -> list[str]:
    """Measures a network; returns its lines of the table."""
    published = modelzoo.find(name)[0].PUBLISHED.get(name)
    size, batch = (published.image_size[0] if published else 224), _BATCH.value
    calls = ours(name, size, batch)
    peer = Peer(_PEER.value, 'benchmarks.peer_timm', _PAIRS.get(name, name), str(size), str(batch), str(_THREADS.value))
    lines = []
    for kind, call in calls.items():
        pairs = [(seconds(call, time.perf_counter), peer.seconds(kind)) for _ in range(_ROUNDS.value)]
        mine, theirs = (batch / statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(there / here for here, there in pairs)
        lines.append(f'| {name} | {size} | {kind} | {mine:.1f} | {theirs:.1f} | {ratio:.2f} |')
    peer.close()
    return lines


def main(_: list[str]) -> None:
    allocator.keep_memory()
    print(f'{_BATCH.value} images, {_THREADS.value} threads, {_ROUNDS.value} rounds; jax {jax.__version__}; float32\n')
    print('| network | px | | ours, images/s | timm, images/s | ours / timm |', '|---|---|---|---|---|---|', sep='\n')
    for name in _MORE if _MODELS.value == ['more'] else _MODELS.value:
        print(*rows(name), sep='\n', flush=True)


if __name__ == '__main__':
    app.run(main)

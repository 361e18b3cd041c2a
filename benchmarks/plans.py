"""Training steps planned for pods that are not here: what docs/scale.md has of them.

    python -m benchmarks.plans networks     # published recipes on v5e:16x16
    python -m benchmarks.plans scaling      # the same examples a chip on 4 to 256 chips
    python -m benchmarks.plans sequence     # one sequence, of the same words a chip on 4 to 256 chips

It needs libtpu and no TPU. What was compiled before is read from its cache, as in train.py.
"""

import math
import os
import sys
from collections.abc import Iterator

import jax

from longview.configs import convnext_t, mamba, vig_s, vit_s16
from longview.engine import dry_run
from longview.engine.fit import changed
from longview.engine.topology import Cost, chip_of, times
from longview.runtime.memory import readable
from longview.runtime.resolve import plain

POD = 'v5e:16x16'
NETWORKS = {
    'ViG-S': vig_s.get_config('imagenet'),
    'ConvNeXt-T': convnext_t.get_config('imagenet'),
    'ViT-S': vit_s16.get_config('imagenet'),
    'Mamba 130M': mamba.get_config('paper'),
}
PODS = ('v5e:2x2', 'v5e:4x4', 'v5e:8x8', POD)
# Of the small network whose step is compiled for all pods.
EXAMPLES_A_CHIP = 32
# Of the sequence that is split over all chips: 2^20 words on 256.
WORDS_A_CHIP = 4096


def networks() -> Iterator[str]:
    """Yields the rows of published recipes on a pod."""
    yield '| network | parameters | batch | chip peak | products, GFLOP | HBM | sent | bound by | examples/s at best |'
    yield '|---|---|---|---|---|---|---|---|---|'
    for name, config in NETWORKS.items():
        made, cost = dry_run.compiled(plain(config), POD)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(made.state.variables.params))
        seconds = times(cost, chip_of(POD)[1])
        slowest = max(seconds, key=lambda what: seconds[what])
        cells = [
            name,
            f'{parameters / 1e6:.1f} M',
            f'{config.batch_size:,}',
            readable(cost.memory),
            f'{2 * cost.multiply_adds / 1e9:,.0f}',
            readable(cost.traffic),
            readable(cost.sent),
            slowest,
            f'{config.batch_size / seconds[slowest]:,.0f}',
        ]
        yield f'| {" | ".join(cells)} |'


def scaled(topology: str) -> Cost:
    """Returns the cost of a small ViG's step on a topology, with the same examples on each chip."""
    chips = _chips(topology)
    config = plain(vig_s.get_config('digits'))
    # An evaluation and the length of the run follow the batch.
    longer = {'batch_size': EXAMPLES_A_CHIP * chips, 'eval_batch_size': 256, 'steps': 1000}
    return dry_run.compiled(changed(config, longer), topology)[1]


def scaling() -> Iterator[str]:
    """Yields the rows of a small network on pods of several sizes."""
    yield '| pod | products, GFLOP | all arithmetic, GFLOP | peak | sent |'
    yield '|---|---|---|---|---|'
    for topology in PODS:
        cost = scaled(topology)
        yield (
            f'| {topology} | {2 * cost.multiply_adds / 1e9:.4g} | {cost.counted_flops / 1e9:.4g} '
            f'| {readable(cost.memory)} | {readable(cost.sent)} |'
        )


def long(topology: str) -> Cost:
    """Returns the cost of a step of Mamba 130M on one sequence, with the same words on each chip of a topology."""
    length = WORDS_A_CHIP * _chips(topology)
    longer = {'data.train_split.length': length, 'data.eval_split.length': length}
    return dry_run.compiled(changed(plain(mamba.get_config('long')), longer), topology)[1]


def sequence() -> Iterator[str]:
    """Yields the rows of one sequence on pods of several sizes, which split its words."""
    yield '| pod | words | products, GFLOP | peak | sent | of it states and taps |'
    yield '|---|---|---|---|---|---|'
    for topology in PODS:
        cost = long(topology)
        permuted = sum(each.sent for each in cost.collectives if each.kind == 'collective-permute')
        yield (
            f'| {topology} | {WORDS_A_CHIP * _chips(topology):,} | {2 * cost.multiply_adds / 1e9:.4g} '
            f'| {readable(cost.memory)} | {readable(cost.sent)} | {readable(permuted)} |'
        )


def _chips(topology: str) -> int:
    return math.prod(int(side) for side in topology.partition(':')[2].split('x'))


def main() -> None:
    """Prints one of the tables."""
    tables = {'networks': networks, 'scaling': scaling, 'sequence': sequence}
    if len(sys.argv) != 2 or sys.argv[1] not in tables:
        sys.exit(f'error: name one of {", ".join(tables)}, as in python -m benchmarks.plans networks.')
    jax.config.update('jax_platforms', 'cpu')
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/longview/xla'))
    for row in tables[sys.argv[1]]():
        print(row, flush=True)


if __name__ == '__main__':
    main()

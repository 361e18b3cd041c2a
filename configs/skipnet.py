"""SkipNet-38: a residual network for CIFAR-10 that decides image by image which blocks to run.

SkipNet: Learning Dynamic Routing in Convolutional Networks, Wang et al., 2017, https://arxiv.org/abs/1711.09485.
Recipe: https://github.com/ucbdrive/skipnet (no licence stated), cifar/train_sp.py and train_rl.py, read for facts.

    python train.py --config configs/skipnet.py --workdir runs/skipnet
    python train.py --config configs/skipnet.py:digits --workdir runs/skipnet_digits
    python train.py --config configs/skipnet.py:hybrid_digits --workdir runs/skipnet_hybrid_digits

Published: 92.75 % on CIFAR-10 with 70.3 % of the blocks run, with recurrent gates after both stages (the repository's
README). Not run here: `cifar10` is TFDS's, which `python -m longview.data.prepare cifar10` prepares where TensorFlow is
installed. `cifar10` is the supervised stage of the network with FFGate-I: 64,000 steps of batches of 128, a rate of 0.1
divided by 10 after 32,000 and 48,000, SGD with a momentum of 0.9, a decay of 1e-4 on every parameter; images padded by
4 pixels, cropped and mirrored; nothing is asked for running a block. What differs: pixels are divided by CIFAR-10's
deviation, there by a smaller one. The hybrid stage goes on from such a run with alpha=0.1, reinforce=1.28, gates
`sampled`, a rate of 1e-4 and 10,000 steps. `digits` asks 0.1 for running all blocks; `hybrid_digits` is the hybrid
stage from that run's best weights, at a tenth of its rate. eval/executed is the share of blocks that are run. The small
presets evaluate the weights themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('skipnet_ffgate1_38', decide={'partial': 'modelzoo.vision.skipnet:hard'})
SMALL = BACKBONE | {'depths': (3, 3, 3), 'widths': (8, 16, 32), 'stem_width': 8}
TINY = BACKBONE | {'depths': (2, 1), 'widths': (8, 16), 'stem_width': 8, 'drop_path': 0.1}
SAMPLED = {'decide': {'partial': 'modelzoo.vision.skipnet:sampled'}}
EPOCH = 50_000 / 128  # steps


def skipping(config, alpha, reinforce=0.0):
    """The objective in place of plain classification."""
    task = {key: config['task'][key] for key in ('backbone', 'head')}
    return config | {
        'task': {'fn': 'methods.exits.skip:Skip', 'alpha': alpha, 'reinforce': reinforce, 'discount': 1.0, **task}
    }


def continued(config):
    """`config` from the weights of the supervised stage."""
    read = {'fn': 'runtime.checkpoint:Best', 'workdir': 'runs/skipnet_digits'}
    return config | {'task': {'fn': 'methods.start:Start', 'inner': config['task'], 'read': read}}


def recipe(backbone):
    """The published supervised stage."""
    schedule = base.staircase(0.1, (32_000 / EPOCH, 48_000 / EPOCH))
    optimizer = base.sgd(schedule, nesterov=False, weight_decay=1e-4, decay_rules=(('.*', 1.0),))
    config = base.cifar10(backbone, optimizer, epochs=64_000 / EPOCH, batch_size=128, padding=4)
    return skipping(config, alpha=0.0)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=skipping(base.digits(SMALL, ema=None), alpha=0.1),
    hybrid_digits=continued(skipping(base.digits(SMALL | SAMPLED, peak=3e-4, ema=None), alpha=0.1, reinforce=0.1)),
    fashion_mnist=skipping(base.fashion_mnist(SMALL, ema=None), alpha=0.1),
    smoke=base.smoke(recipe(TINY)),
)

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

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'skipnet_ffgate1_38',
    'decide': {'partial': 'modelzoo.vision.skipnet:hard'},
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
}
SMALL = {'depths': (3, 3, 3), 'widths': (8, 16, 32), 'stem_width': 8}
SAMPLED = {'decide': {'partial': 'modelzoo.vision.skipnet:sampled'}}
EPOCH = 50_000 / 128


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


def recipe(backbone, data):
    """The published supervised stage."""
    schedule = base.staircase(0.1, (32_000 / EPOCH, 48_000 / EPOCH))
    optimizer = base.sgd(schedule, nesterov=False, weight_decay=1e-4, decay_rules=(('.*', 1.0),))
    return skipping(
        base.cifar10(base.supervised(backbone, 10, ema=None), data, optimizer, epochs=64_000 / EPOCH, batch_size=128),
        0.0,
    )


def get_config(preset=None):
    """The presets are those of configs/base.py, with CIFAR-10 in the place of ImageNet, and `hybrid_digits`."""

    def cifar10():
        return recipe(BACKBONE, base.cifar10_data({'fn': 'data.images:PadCrop', 'padding': 4, 'flip': True}))

    def digits():
        return skipping(base.digits(BACKBONE | SMALL, ema=None), 0.1)

    def hybrid_digits():
        return continued(skipping(base.digits(BACKBONE | SMALL | SAMPLED, peak=3e-4, ema=None), 0.1, 0.1))

    def fashion_mnist():
        return skipping(base.fashion_mnist(BACKBONE | SMALL, ema=None), 0.1)

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1, 'depths': (2, 1), 'widths': (8, 16), 'stem_width': 8}
        return base.smoke(recipe(shrunk, base.imagenet_data()), image_size=32)

    return base.select(
        preset,
        {
            'cifar10': cifar10,
            'digits': digits,
            'hybrid_digits': hybrid_digits,
            'fashion_mnist': fashion_mnist,
            'smoke': smoke,
        },
    )

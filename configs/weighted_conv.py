"""A residual network whose kernels are multiplied by a density, which is less at the rim than in the middle.

Optimal Weighted Convolution for Classification and Denosing, Cammarasana and Patane, 2025,
https://arxiv.org/abs/2505.24558; how densities are found: https://arxiv.org/abs/2505.24527. Reference:
https://github.com/cammarasana123/weightedConvolution2.0 (GPL-3.0: facts and numbers only).

    python train.py --config configs/weighted_conv.py:digits --workdir runs/weighted_digits
    python train.py --config configs/weighted_conv.py:learned_digits --workdir runs/weighted_learned_digits
    python train.py --config configs/weighted_conv.py:plain_digits --workdir runs/plain_weighted_digits

Published: VGG on CIFAR-100 66.94 % with the weighted convolution and 56.89 % without, with densities that were tuned
for the task; a recipe is published for learned densities alone. `digits` has the reference's example for kernels of
3x3, 0.7 beside 1.0, in all layers, and was not tuned. `learned_digits` starts there, each layer learns its own, at the
published rate and decay of 1e-2 each, along cosines of 10, 20, ... epochs; all else keeps the rate of `plain_digits`,
which has plain kernels: the published 1e-4, with a decay of 1e-2 along a cosine to 1e-6 over 100 epochs, is too little
for so few steps. What they reach: docs/results.md.
"""

from longview.configs import base

WEIGHTED = {'partial': 'modelzoo.layers.convolutions.weighted:WeightedConv', 'density': (0.7,), 'learned': False}
PLAIN = base.backbone('resnet18', stem_stride=1, stem_width=16, depths=(1, 1), widths=(16, 32))
SMALL = PLAIN | {'conv': WEIGHTED}
LEARNED = PLAIN | {'conv': WEIGHTED | {'learned': True}}


def learned(config):
    """A run in which densities have the published optimizer."""
    schedule = {'partial': 'methods.optim.warm_restarts:warm_restarts', 'peak': 1e-2, 'period': 10.0, 'factor': 2.0}
    densities = {
        'partial': 'methods.optim.adamw:adamw',
        'schedule': schedule,
        'weight_decay': 1e-2,
        'decay_rules': (('density', 1.0),),
    }
    groups = [('(?!.*density).*', config['optimizer']), ('.*density', densities)]  # the first one's rate is logged
    node = lambda paths, optimizer: {'fn': 'methods.optim.apart:Group', 'paths': paths, 'optimizer': optimizer}
    return config | {'optimizer': {'partial': 'methods.optim.apart:apart', 'groups': [node(*one) for one in groups]}}


get_config = base.presets(
    digits=base.digits(SMALL, ema=None),
    learned_digits=learned(base.digits(LEARNED, ema=None)),
    plain_digits=base.digits(PLAIN, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(base.imagenet(SMALL | {'drop_path': 0.1}, base.adamw(peak=1e-3, warmup_epochs=0.1), ema=None)),
)

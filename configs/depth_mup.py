"""Depth-muP: a deeper network at the rate that was found for a shallow one.

Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks, Yang et al., 2023,
https://arxiv.org/abs/2310.02244. The same factors: Depthwise Hyperparameter Transfer in Residual Networks: Dynamics and
Scaling Limit, Bordelon et al., 2023, https://arxiv.org/abs/2309.16620.

    python train.py --config configs/depth_mup.py:digits --workdir runs/depth_mup_digits
    python train.py --config configs/depth_mup.py:fashion_mnist --workdir runs/depth_mup_fashion

Published: rates that carry over along depth, for networks of up to 2^10 blocks. Not run here. The small presets have 8
blocks at the rate of 2.
"""

import math

from longview.configs import base

BLOCKS, BASE = 8, 2


def deepened(config):
    """`config` with branches and their rate divided."""
    task = {'fn': 'methods.optim.depth_mup:DepthMuP', 'inner': config['task'], 'depth': BLOCKS, 'base_depth': BASE}
    optimizer = config['optimizer'] | {'rate_rules': (('block', math.sqrt(BASE / BLOCKS)),)}
    return config | {'task': task, 'optimizer': optimizer}


get_config = base.presets(
    digits=deepened(base.digits(base.VIT | {'patch': 2, 'depth': BLOCKS}, epochs=20.0, ema=None)),
    fashion_mnist=deepened(base.fashion_mnist(base.VIT | {'patch': 4, 'depth': BLOCKS}, ema=None)),
)

"""S2AFormer: attention whose keys are few and whose queries and keys have one channel a head, between convolutions.

S2AFormer: Strip Self-Attention for Efficient Vision Transformer, Xu et al., 2025, https://arxiv.org/abs/2505.22195.
There is no public code. Recipe of ImageNet: configs/pvt_v2_b0.py, of the network whose spatial reduction it takes up.

    python train.py --config configs/s2aformer.py --workdir runs/s2aformer
    python train.py --config configs/s2aformer.py:digits --workdir runs/s2aformer_digits
    python train.py --config configs/s2aformer.py:four_digits --workdir runs/s2aformer_four_digits
    python train.py --config configs/s2aformer.py:plain_digits --workdir runs/s2aformer_plain_digits

Published: results of sizes whose widths are not known to us; the size here is ours, with neither figures nor weights.
ImageNet was not run here. `digits` has one channel of queries and keys in each of four heads, `four_digits` has four,
and `plain_digits` as many as the values have, all else equal. What they reach: docs/results.md. The small presets
evaluate the weights themselves.
"""

from longview.configs import base

BACKBONE = base.backbone('s2a_t_ours', key_width=1, scan=False)
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (1, 1),
    'heads': (2, 4),
    'ratios': (4, 4),
    'reductions': (2, 1),
    'stem_stride': 2,
}
TINY = SMALL | {'widths': (16, 32), 'stem_stride': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The run on ImageNet."""
    return base.imagenet(backbone, base.adamw(peak=1e-3, weight_decay=0.05, **schedule), ema=None)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL, ema=None),
    four_digits=base.digits(SMALL | {'key_width': 4}, ema=None),
    plain_digits=base.digits(SMALL | {'key_width': base.unset(int)}, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

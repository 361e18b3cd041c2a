"""Res2Net-50, 26w x 4s: bottlenecks that see several scales.

Res2Net: A New Multi-scale Backbone Architecture, Gao et al., 2019, https://arxiv.org/abs/1904.01169. Recipe: its
section 4.1.

    python train.py --config configs/res2net50.py --workdir runs/res2net50
    python train.py --config configs/res2net50.py:digits --workdir runs/res2net50_digits

Published: 22.01 % top-1 error on ImageNet-1k at 224 px. Not run here. 100 epochs of batches of 256, a rate of 0.1 that
is divided by ten every 30 epochs, SGD with a momentum of 0.9, a decay of 1e-4 on every parameter; crops and mirrored
images. What differs: bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for the published
precision). The small presets evaluate the weights themselves: the batch statistics are theirs, not those of averaged
weights.
"""

from longview.configs import base

BACKBONE = base.backbone('res2net50_26w_4s')
SMALL = BACKBONE | {'stem_stride': 1, 'stem_width': 32, 'depths': (2, 2, 2), 'widths': (64, 128, 256)}
TINY = BACKBONE | {'stem_width': 16, 'depths': (1, 2), 'widths': (64, 128), 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    schedule = base.staircase(0.1, (30.0, 60.0, 90.0))
    optimizer = base.sgd(schedule, nesterov=False, decay_rules=(('.*', 1.0),))
    return base.imagenet(backbone, optimizer, epochs=100.0, batch_size=256, ema=None) | {
        'train_transforms': [base.normalize()]
    }


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)

"""InceptionNeXt-T: ConvNeXt whose large kernel is split into a small square and two bands.

InceptionNeXt: When Inception Meets ConvNeXt, Yu et al., 2023, https://arxiv.org/abs/2303.16900. Recipe:
https://github.com/sail-sg/inceptionnext (Apache-2.0), scripts/inceptionnext/train_inceptionnext_tiny.sh.

    python train.py --config configs/inceptionnext_t.py --workdir runs/inceptionnext_t
    python train.py --config configs/inceptionnext_t.py:digits --workdir runs/inceptionnext_t_digits

Published: 28 M parameters, 82.3 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 4,096, 20 of
them warm-up to a rate of 4e-3, a cosine to 0. What differs: batch statistics are of the whole batch, there of one
device's images. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for the published precision).
The small presets evaluate the weights themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('inceptionnext_tiny')
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = base.backbone('inceptionnext_atto', widths=(32, 64), depths=(2, 2), ratios=(4, 3))
TINY = SMALL | {'widths': (16, 32), 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    return base.imagenet(backbone, base.adamw(peak=4e-3, weight_decay=0.05, **schedule), batch_size=4096, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=20.0),
    digits=base.digits(SMALL | {'patch': 2}, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

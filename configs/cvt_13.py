"""CvT-13: a transformer in three resolutions with convolved queries, keys and values.

CvT: Introducing Convolutions to Vision Transformers, Wu et al., 2021, https://arxiv.org/abs/2103.15808. Recipe:
https://github.com/leoxiaobin/CvT (MIT), experiments/imagenet/cvt/cvt-13-224x224.yaml, on the eight devices of the
README's command.

    python train.py --config configs/cvt_13.py --workdir runs/cvt_13
    python train.py --config configs/cvt_13.py:digits --workdir runs/cvt_13_digits

Published: 20 M parameters, 81.6 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 2,048, 5 of
them warm-up; the peak rate is 2.5e-4 per 256 images; no decay of the class token. Not expressed: ten more epochs at
the last rate. Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('cvt_13')
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (1, 2), 'heads': (1, 2)}
TINY = SMALL | {'patch': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(weight_decay=0.05, decay_rules=(('cls_token', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, batch_size=2048, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, peak=2e-3, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'patch': 1}, epochs=60.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 2}),
    smoke=base.smoke(recipe(TINY, peak=1e-3, warmup_epochs=0.1)),
)

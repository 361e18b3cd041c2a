"""DeiT-S: a vision transformer trained on ImageNet-1k alone.

Training data-efficient image transformers & distillation through attention, Touvron et al., 2020,
https://arxiv.org/abs/2012.12877. Recipe: https://github.com/facebookresearch/deit (Apache-2.0), main.py and
README_deit.md.

    python train.py --config configs/deit_s.py --workdir runs/deit_s
    python train.py --config configs/deit_s.py:digits --workdir runs/deit_s_digits

Published: 22 M parameters, 79.8 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 1,024, 5 of
them warm-up; the peak rate is 5e-4 per 512 images; no decay of the position table and the class token. Not expressed:
repeated augmentation (each image three times in an epoch of a third as many); the averaged weights, which the code
keeps and does not report. Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('deit_small_patch16_224', fn='modelzoo.vision.vit:vit', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'patch': 2, 'image_size': 8, 'width': 64, 'depth': 4, 'heads': 2}
TINY = BACKBONE | {'patch': 8, 'image_size': 32, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(weight_decay=0.05, decay_rules=(('pos_embed|cls_token', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4, 'image_size': 28, 'depth': 3}),
    smoke=base.smoke(recipe(TINY, peak=1e-3, warmup_epochs=0.1)),
)

"""STViT-S: attention between super tokens, which pixels are softly assigned to.

Vision Transformer with Super Token Sampling, Huang et al., 2022, https://arxiv.org/abs/2211.11167. Recipe:
https://github.com/hhb072/STViT (MIT by the heads of its files), commit c9ed9a4, main.py and README.md.

    python train.py --config configs/stvit_small.py --workdir runs/stvit_small
    python train.py --config configs/stvit_small.py --workdir runs/stvit_base \
        --config.task.inner.backbone.variant=stvit_base --config.task.inner.backbone.drop_path=0.4
    python train.py --config configs/stvit_small.py:digits --workdir runs/stvit_digits
    python train.py --config configs/stvit_small.py:pixel_digits --workdir runs/stvit_pixel_digits

Published: 25 M parameters, 83.6 % top-1 on ImageNet-1k at 224 px; STViT-B 84.8 %, STViT-L 85.3 %. Not run here. 300
epochs of batches of 128 on each of 8 devices at a rate of 5e-4 per 512 images, 5 epochs of them warm-up from 1e-6, down
to 1e-5; AdamW with a decay of 0.05; weights averaged by 0.99996; stochastic depth of 0.1 (STViT-B 0.4, STViT-L 0.6, or
better 0.4 for 260 epochs and then 0.6; run.sh has 0.3 for STViT-S). Not expressed: repeated augmentation (each image
three times in an epoch of a third as many), and 10 more epochs at the last rate. bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).

The small presets have two stages, and cells of 2x2 pixels in the first; `pixel_digits` attends between all pixels
there, which are four times as many as the super tokens.
"""

from longview.configs import base

BACKBONE = base.backbone('stvit_small')
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (2, 2),
    'heads': (1, 2),
    'cells': (2, 1),
    'scaled': (False, False),
    'projection': 128,
    'stem_stride': 1,
}
PIXELS = SMALL | {'cells': (1, 1)}
TINY = SMALL | {'widths': (16, 32), 'depths': (1, 1), 'stem_stride': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, **schedule)
    return base.imagenet(backbone, optimizer, ema=0.99996)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    pixel_digits=base.digits(PIXELS),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

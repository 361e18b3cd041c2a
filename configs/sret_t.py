"""SReT-T: each block of a transformer used twice in a row, with attention between slices of the tokens.

Sliced Recursive Transformer, Shen et al., 2021, https://arxiv.org/abs/2111.05297. Networks:
https://github.com/szq0214/SReT (MIT), commit af6db0a, SReT.py and README.md.

    python train.py --config configs/sret_t.py --workdir runs/sret_t
    python train.py --config configs/sret_t.py --workdir runs/sret_s --config.task.inner.backbone.variant=sret_s
    python train.py --config configs/sret_t.py:digits --workdir runs/sret_digits
    python train.py --config configs/sret_t.py:once_digits --workdir runs/sret_once_digits

Published: 4.8 M parameters, 76.0 % top-1 on ImageNet-1k at 224 px, 76.1 % without slices; SReT-S 81.9 %. Not run here.
The training script is not published; its README has DeiT's recipe, which is here, and says that twice the rate with 30
epochs of warm-up did better. 300 epochs of batches of 1024 at a rate of 1e-3, 5 epochs of them warm-up from 1e-6, down
to 1e-5; AdamW with a decay of 0.05 on all but vectors and positions; stochastic depth of 0.1, the default of its code;
weights averaged by 0.99996. Not expressed: repeated augmentation (each image three times in an epoch of a third as
many). bfloat16 with float32 parameters (--config.task.inner.backbone.dtype=float32 for full precision).

The small presets have two stages and slices the first time; `once_digits` uses each block once, with the same
parameters but for the small layers after the second time.
"""

from longview.configs import base

BACKBONE = base.backbone('sret_t')
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (1, 2),
    'heads': (2, 4),
    'groups': ((4, 1), (1, 1)),
    'stem_stride': 1,
    'image_size': 8,
}
ONCE = SMALL | {'groups': ((1,), (1,))}
TINY = SMALL | {'widths': (16, 32), 'depths': (1, 1), 'stem_stride': 4, 'image_size': 32, 'drop_path': 0.1}
KEPT = (('pos_embed', 0.0),)


def recipe(backbone, **schedule):
    """DeiT's recipe for a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, decay_rules=KEPT, **schedule)
    return base.imagenet(backbone, optimizer, ema=0.99996)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    once_digits=base.digits(ONCE),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

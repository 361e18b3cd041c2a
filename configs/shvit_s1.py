"""SHViT-S1: attention of a single head on some of the channels, behind a stem of stride 16.

SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, Yun and Ro, 2024,
https://arxiv.org/abs/2401.16456. Recipe: https://github.com/ysj9909/SHViT (MIT), commit 6a729cc, main.py and README.md.

    python train.py --config configs/shvit_s1.py --workdir runs/shvit_s1
    python train.py --config configs/shvit_s1.py --workdir runs/shvit_s4 \
        --config.task.inner.backbone.variant=shvit_s4 --config.optimizer.weight_decay=0.03 --config.data.image_size=256
    python train.py --config configs/shvit_s1.py:digits --workdir runs/shvit_digits
    python train.py --config configs/shvit_s1.py:plain_digits --workdir runs/shvit_plain_digits

Published: 6.3 M parameters, 72.8 % top-1 on ImageNet-1k at 224 px; SHViT-S2 75.2 %, SHViT-S3 77.4 %, SHViT-S4 at 256 px
79.4 %. Not run here. 300 epochs of batches of 256 on each of 8 devices at a rate of 1e-3 per 512 images, 5 epochs of
them warm-up from 1e-6, down to 1e-5; AdamW with a decay of 0.025 (S2 0.032, S3 0.035, S4 0.03) on all but vectors; the
gradient of each unit clipped to 0.02 of its weights' norm, the head's too; weights averaged by 0.99996. Not expressed:
repeated augmentation (each image three times in an epoch of a third as many); 10 more epochs at the last rate; the
scale and bias of the norm before the head, which the head can learn as well. Trained in mixed precision, and here in
bfloat16 with float32 parameters.

The small presets have three stages of which, as published, the last two attend; in `plain_digits` none does.
"""

from longview.configs import base

BACKBONE = base.backbone('shvit_s1')
SMALL = BACKBONE | {'widths': (32, 48, 64), 'depths': (1, 1, 2), 'attending': (0, 12, 16), 'key': 8, 'stem_stride': 1}
PLAIN = SMALL | {'attending': (0, 0, 0)}
TINY = SMALL | {'widths': (16, 32), 'depths': (1, 1), 'attending': (0, 8), 'stem_stride': 4, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = {'start': 1e-6, 'end': 1e-5, 'warmup_epochs': warmup_epochs}
    optimizer = base.adamw(peak=4e-3, weight_decay=0.025, **schedule)
    clipped = optimizer | {'adaptive_clip': 0.02, 'adaptive_clip_spare': None}
    return base.imagenet(backbone, clipped, batch_size=2048, ema=0.99996)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(PLAIN, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

"""iFormer-S, the Inception Transformer: convolution, pooling and attention, each on its own channels.

Inception Transformer, Si et al., 2022, https://arxiv.org/abs/2205.12956. Recipe:
https://github.com/sail-sg/iFormer (Apache-2.0), commit 725d8e7, README.md and checkpoint/iformer_*/args.yaml.

    python train.py --config configs/iformer_small.py --workdir runs/iformer_small
    python train.py --config configs/iformer_small.py --workdir runs/iformer_base \
        --config.task.backbone.variant=iformer_base --config.task.backbone.drop_path=0.4 \
        --config.optimizer.schedule.end=1e-5 --config.optimizer.clip_norm=1.0
    python train.py --config configs/iformer_small.py:digits --workdir runs/iformer_digits
    python train.py --config configs/iformer_small.py:attention_digits --workdir runs/iformer_attention_digits

Published: 20 M parameters, 83.4 % top-1 on ImageNet-1k at 224 px; iFormer-B 84.6 %, iFormer-L (a drop path of 0.5)
84.8 %; after 30 epochs at 384 px 84.6, 85.7 and 85.8 %. Not run here. 300 epochs of batches of 128 on each of 8
devices, 5 epochs of them warm-up from 1e-6 to 1e-3, down to 1e-6 (B, L: 1e-5, with gradients of a norm of at most 1).
Not expressed: 10 more epochs at the last rate; repeated augmentation for B and L (each image three times); crops that
are resized in a way drawn at random. Trained in float32, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).

The small presets have two stages of two blocks; in `attention_digits` all channels attend in every block, on the same
means of 2x2 pixels in the first stage.
"""

from longview.configs import base

BACKBONE = base.backbone('iformer_small')
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (2, 2),
    'heads': (4, 4),
    'attending': ((1, 2), (2, 3)),
    'halved': (True, False),
    'scaled': (False, False),
    'stem_stride': 1,
    'image_size': 8,
}
ATTENTION = SMALL | {'attending': ((4, 4), (4, 4))}
TINY = SMALL | {'stem_stride': 4, 'image_size': 32, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-6, warmup_epochs=warmup_epochs, weight_decay=0.05)
    return base.imagenet(backbone, optimizer, eval_fraction=0.9, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    attention_digits=base.digits(ATTENTION),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

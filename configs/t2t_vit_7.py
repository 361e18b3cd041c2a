"""T2T-ViT-7: a plain transformer on tokens that are made in steps, of overlapping windows.

Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet, Yuan et al., 2021,
https://arxiv.org/abs/2101.11986. Recipe: https://github.com/yitu-opensource/T2T-ViT (Clear BSD), commit 0f63dc9,
main.py and README.md.

    python train.py --config configs/t2t_vit_7.py --workdir runs/t2t_vit_7
    python train.py --config configs/t2t_vit_7.py --workdir runs/t2t_vit_14 \
        --config.task.inner.backbone.variant=t2t_vit_14 --config.optimizer.weight_decay=0.05 \
        --config.optimizer.schedule.peak=5e-4
    python train.py --config configs/t2t_vit_7.py:digits --workdir runs/t2t_digits
    python train.py --config configs/t2t_vit_7.py:plain_digits --workdir runs/t2t_plain_digits

Published: 4.3 M parameters, 71.7 % top-1 on ImageNet-1k at 224 px; T2T-ViT-10 75.2 %, 12 76.5 %, 14 81.5 %, 19 and 24
(with a decay of 0.065) 81.9 and 82.3 %. Not run here. 300 epochs of batches of 64 on each of 8 devices, 10 epochs of
them warm-up from 1e-6, down to 1e-5; weights averaged by 0.99996. The fixed positions and random features do not decay,
nor does the class token. Not expressed: dropout of 0.1 inside the Performers; 10 more epochs at the last rate; crops
that are resized in a way drawn at random. Trained in mixed precision, and here in bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).

The small presets have two soft splits and three blocks; in `plain_digits` as many tokens are made of squares of 2x2
pixels, as those of a ViT.
"""

from longview.configs import base

BACKBONE = base.backbone('t2t_vit_7', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {
    'width': 64,
    'depth': 3,
    'heads': 2,
    'windows': ((3, 1, 1), (3, 2, 1)),
    'token_features': 32,
    'wide_scale': False,
    'image_size': 8,
}
PLAIN = SMALL | {'windows': ((2, 2, 0),)}
TINY = SMALL | {'windows': ((7, 4, 2), (3, 2, 1)), 'image_size': 32, 'drop_path': 0.1}
KEPT = (('pos_embed|cls_token|features/kernel', 0.0),)


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = {'start': 1e-6, 'end': 1e-5, 'warmup_epochs': warmup_epochs}
    optimizer = base.adamw(peak=1e-3, weight_decay=0.03, **schedule)
    return kept(base.imagenet(backbone, optimizer, batch_size=512, eval_fraction=0.9, ema=0.99996))


def kept(config):
    """`config` without decay of what is fixed."""
    return config | {'optimizer': config['optimizer'] | {'decay_rules': KEPT}}


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=10.0),
    digits=kept(base.digits(SMALL, epochs=60.0)),
    plain_digits=kept(base.digits(PLAIN, epochs=60.0)),
    fashion_mnist=kept(base.fashion_mnist(SMALL | {'windows': ((3, 2, 1), (3, 2, 1)), 'image_size': 28})),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

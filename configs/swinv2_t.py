"""Swin Transformer V2-T: attention inside shifted windows, 8x8 at 256 px.

Swin Transformer V2: Scaling Up Capacity and Resolution, Liu et al., 2021, https://arxiv.org/abs/2111.09883. Recipe:
https://github.com/microsoft/Swin-Transformer (MIT), configs/swinv2/swinv2_tiny_patch4_window8_256.yaml and config.py.

    python train.py --config configs/swinv2_t.py --workdir runs/swinv2_t
    python train.py --config configs/swinv2_t.py:digits --workdir runs/swinv2_t_digits

Published: 28 M parameters, 81.8 % top-1 on ImageNet-1k at 256 px. Not run here. 300 epochs of batches of 1,024, 20 of
them warm-up; the peak rate is 5e-4 per 512 images; no decay of the bias network and of the logits' scales. Trained in
float16, and here in bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('swinv2_tiny_window8_256', scan=False)
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'width': 32, 'depths': (2, 2), 'heads': (2, 4)}
TINY = SMALL | {'patch': 4, 'window': 4, 'drop_path': 0.1}
UNDECAYED = 'mixer/bias_|logit_scale'


def recipe(backbone, **schedule):
    """The published run of a network."""
    rules = ((UNDECAYED, 0.0),)
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, clip_norm=5.0, decay_rules=rules, **schedule)
    return base.imagenet(backbone, optimizer, image_size=256, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, start=5e-7, end=5e-6, warmup_epochs=20.0),
    digits=base.digits(SMALL | {'patch': 1, 'window': 4}, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 2, 'window': 7}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

"""ConViT-Ti: self-attention that starts as a convolution.

ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases, d'Ascoli et al., 2021,
https://arxiv.org/abs/2103.10697. Recipe: https://github.com/facebookresearch/convit (Apache-2.0), main.py.

    python train.py --config configs/convit_ti.py --workdir runs/convit_ti
    python train.py --config configs/convit_ti.py:digits --workdir runs/convit_ti_digits

Published: 6 M parameters, 73.1 % top-1 on ImageNet-1k at 224 px. Not run here. DeiT's recipe: 300 epochs of batches
of 1,024, 5 of them warm-up; the peak rate is 5e-4 per 512 images; no decay of the position table and the class token.
Not expressed: repeated augmentation (each image three times in an epoch of a third as many). Trained in float16, and
here in bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('convit_tiny', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'patch': 2, 'image_size': 8, 'width': 64, 'depth': 4, 'local': 3, 'heads': 4}
TINY = BACKBONE | {'patch': 8, 'image_size': 32, 'width': 32, 'depth': 2, 'local': 1, 'heads': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(weight_decay=0.05, decay_rules=(('pos_embed|cls_token', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4, 'image_size': 28, 'depth': 3, 'local': 2}),
    smoke=base.smoke(recipe(TINY, peak=1e-3, warmup_epochs=0.1)),
)

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

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'convit_tiny',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
NO_DECAY = {'decay_rules': (('pos_embed|cls_token', 0.0),)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, weight_decay=0.05) | NO_DECAY
        return base.imagenet(BACKBONE | RECIPE, optimizer, ema=None)

    def digits():
        small = {'patch': 2, 'image_size': 8, 'width': 64, 'depth': 4, 'local': 3, 'heads': 4}
        return base.digits(BACKBONE | small, epochs=100.0)

    def fashion_mnist():
        return base.fashion_mnist(
            BACKBONE | {'patch': 4, 'image_size': 28, 'width': 64, 'depth': 3, 'local': 2, 'heads': 4}
        )

    def smoke():
        shrunk = BACKBONE | {
            'drop_path': 0.1,
            'image_size': 32,
            'patch': 8,
            'width': 32,
            'depth': 2,
            'local': 1,
            'heads': 4,
        }
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05) | NO_DECAY
        return base.smoke(base.imagenet(shrunk, optimizer, ema=None), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})

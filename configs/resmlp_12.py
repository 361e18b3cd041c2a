"""ResMLP-S12: one matrix across the patches in place of attention.

ResMLP: Feedforward networks for image classification with data-efficient training, Touvron et al., 2021,
https://arxiv.org/abs/2105.03404. Recipe: the paper's section 3.1; code: https://github.com/facebookresearch/deit
(Apache-2.0), README_resmlp.md and main.py.

    python train.py --config configs/resmlp_12.py --workdir runs/resmlp_12
    python train.py --config configs/resmlp_12.py:digits --workdir runs/resmlp_12_digits

Published: 15 M parameters, 76.6 % top-1 on ImageNet-1k at 224 px. Not run here. 400 epochs; DeiT's augmentations.
Not expressed: LAMB at a rate of 5e-3 with a decay of 0.2, so this is AdamW with DeiT's rate and decay; repeated
augmentation (each image three times in an epoch of a third as many). Evaluated on the central 90 %. Trained in
float16, and here in bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'resmlp_12_224',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
NO_DECAY = {'decay_rules': (('alpha|beta', 0.0),)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, weight_decay=0.05) | NO_DECAY
        config = base.imagenet(BACKBONE | RECIPE, optimizer, epochs=400.0, ema=None)
        config['data']['eval_crop']['fraction'] = 0.9
        return config

    def digits():
        return base.digits(BACKBONE | {'patch': 2, 'width': 64, 'depth': 4}, epochs=100.0)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | {'patch': 4, 'width': 64, 'depth': 4})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1, 'patch': 8, 'width': 32, 'depth': 2}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05) | NO_DECAY
        return base.smoke(base.imagenet(shrunk, optimizer, ema=None), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})

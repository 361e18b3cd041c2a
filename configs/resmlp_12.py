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

BACKBONE = base.backbone('resmlp_12_224', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'width': 64, 'depth': 4}
TINY = BACKBONE | {'patch': 8, 'width': 32, 'depth': 2, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, decay_rules=(('alpha|beta', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, epochs=400.0, eval_fraction=0.9, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'patch': 2}, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

"""SpaRTAN-T: dilated convolutions and complex rotations of channels in 3.8 M parameters.

SpaRTAN, Pay et al., 2025, https://arxiv.org/abs/2507.10999. Recipe: https://github.com/henry-pay/SpaRTAN (Apache-2.0),
src/config and src/main.py.

    python train.py --config configs/spartan_t.py --workdir runs/spartan_t
    python train.py --config configs/spartan_t.py:digits --workdir runs/spartan_digits

Published: 3.8 M parameters, 77.7 % top-1 on ImageNet-1k at 256 px. Not run here. 300 epochs of batches of 512 in each
process, whose number is not published (one here), 20 of warm-up from 1e-4 to a rate of 2.5e-3, a cosine to 1e-6, AdamW
with a decay of 0.03 also on the scales of the residual branches, mixup 0.2 or cutmix 1.0 at even odds without label
smoothing (the configured 0.2 reaches the loss of the evaluation alone), two operations of RandAugment of magnitude 7 of
30, random erasing, stochastic depth. What differs: torchvision's RandAugment has more operations and scales them
otherwise (7 of 30 is 2.3 of 10 here); erased pixels are noise, there zeros; the rate moves with the step, there once an
epoch. bfloat16 with float32 parameters, for the published automatic precision. The small presets evaluate the weights
themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('spartan_t')
SMALL = BACKBONE | {'widths': (16, 32), 'depths': (2, 2), 'ratios': (2, 2), 'stem_stride': 1}
TINY = SMALL | {'depths': (1, 1), 'stem_stride': 4, 'drop_path': 0.1}
RANDAUGMENT = {
    'fn': 'methods.randaugment:RandAugment',
    'magnitude': 2.3,
    'magnitude_std': 0.0,
    'layers': 2,
    'probability': 1.0,
    'fill': (0, 0, 0),
    'interpolation': 'bilinear',
    'contrast': 'pil',
}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(
        peak=2.5e-3,
        start=1e-4,
        end=1e-6,
        warmup_epochs=warmup_epochs,
        weight_decay=0.03,
        decay_rules=((r'/residual\d/scale$', 1.0),),
    )
    config = base.imagenet(backbone, optimizer, batch_size=512, image_size=256, eval_fraction=1.0, ema=None)
    config['data']['train_crop']['interpolation'] = config['data']['eval_crop']['interpolation'] = 'bilinear'
    _, normalize, erasing, mix = base.timm_transforms(mixup_alpha=0.2)
    return config | {'train_transforms': [RANDAUGMENT, normalize, erasing, mix | {'label_smoothing': 0.0}]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.095, 'dtype': 'bfloat16'}, warmup_epochs=20.0),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

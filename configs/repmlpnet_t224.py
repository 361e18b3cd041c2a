"""RepMLPNet-T224: matrices over pixels, trained with convolutions that are merged into them.

RepMLP, Ding et al., 2021, https://arxiv.org/abs/2105.01883, and RepMLPNet, https://arxiv.org/abs/2112.11081. Recipe:
https://github.com/DingXiaoH/RepMLP (MIT), README.md, main_repmlp.py and data/build.py.

    python train.py --config configs/repmlpnet_t224.py --workdir runs/repmlpnet_t224
    python train.py --config configs/repmlpnet_t224.py:digits --workdir runs/repmlpnet_digits

Published: 38.3 M parameters, 76.62 % top-1 on ImageNet-1k at 224 px. Not run here. 100 epochs of batches of 256, 10 of
them warm-up to a rate of 1e-3, a cosine to 0, AdamW with a decay of 0.1 on kernels, gradients clipped at 5, labels
smoothed by 0.1, mixup 0.4 or cutmix 1.0 at even odds, two operations of RandAugment. What differs: there a magnitude is
drawn from the whole numbers 0 to 14, here from a normal distribution of the same mean and deviation, cut at 10; batch
statistics are of the whole batch, there of 32 images. bfloat16 with float32 parameters. The small presets evaluate the
weights themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('repmlpnet_t224')
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'sets': (4, 16)}
TINY = BACKBONE | {'widths': (16, 32), 'depths': (2, 1), 'sets': (2, 4), 'partition': (8, 8), 'drop_path': 0.1}
RANDAUGMENT = {
    'fn': 'methods.randaugment:RandAugment',
    'magnitude': 7.0,
    'magnitude_std': 4.32,
    'layers': 2,
    'probability': 1.0,
    'fill': (128, 128, 128),
    'interpolation': 'bilinear',
    'contrast': 'published',
}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(
        peak=1e-3,
        start=5e-7,
        warmup_epochs=warmup_epochs,
        weight_decay=0.1,
        clip_norm=5.0,
        decay_rules=(('/perceptron/scale$', 1.0),),
    )
    _, normalize, _, mix = base.timm_transforms(mixup_alpha=0.4)
    config = base.imagenet(backbone, optimizer, epochs=100.0, batch_size=256, ema=None)
    config['data']['train_crop']['interpolation'] = 'bilinear'
    config['data']['eval_crop'] = {'fn': 'data.images:CenterCrop', 'fraction': 1.0, 'interpolation': 'bilinear'}
    return config | {'train_transforms': [RANDAUGMENT, normalize, mix]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=10.0),
    digits=base.digits(SMALL | {'stem_stride': 1, 'partition': (8, 8)}, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'partition': (14, 14)}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

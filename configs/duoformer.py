"""DuoFormer: a ResNet, attention between its scales within each region, then attention between regions.

DuoFormer: Leveraging Hierarchical Representations by Local and Global Attention Vision Transformer, Tang et al., 2025,
https://arxiv.org/abs/2506.12982. Recipe: https://github.com/AliSerwat/duoformer_TCGA (no licence file), commit 69b7441,
a mirror of the authors' code, main_toy.py.

    python train.py --config configs/duoformer.py --workdir runs/duoformer
    python train.py --config configs/duoformer.py:digits --workdir runs/duoformer_digits
    python train.py --config configs/duoformer.py:plain_digits --workdir runs/duoformer_plain_digits

Published: results on images of tissue, which are not public. Not run here. `cifar10` is the reference's example, which
has SVHN as committed: images
made as large as 224 x 224, two scales, 50 epochs of batches of 128, Adam under one cycle up to 5e-5 (its comments have
1e-4 for two scales, and 5e-5 for four with batches of 16) with a decay of 1e-4, all weights trained. What differs: the
ResNet starts at random, there it is torchvision's pretrained one; the cycle rises in a line, there along a cosine, and
leaves Adam's first moment alone; the decay is AdamW's; and the reference keeps the epoch that is best on the test
images. How it augments is not published. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for
full precision).

`digits` has a ResNet of three blocks and all three scales, 22 tokens in each of 2x2 regions; `plain_digits` has the
last scale alone, 2 tokens, in the same network.
"""

from longview.configs import base

BACKBONE = base.backbone('duoformer_r50_s2')
TRUNK = {
    'partial': 'modelzoo.vision.duoformer:Trunk',
    'depths': (1, 1, 1),
    'widths': (16, 32, 64),
    'stem_width': 16,
    'stem_stride': 1,
}
SIZES = {'trunk': TRUNK, 'width': 48, 'depth': 2, 'heads': 3, 'grid': (2, 2)}
SMALL = base.backbone('duoformer_scratch_r50_s3', scales=3) | SIZES
PLAIN = SMALL | {'scales': 1}
TINY = BACKBONE | SIZES | {'trunk': TRUNK | {'stem_stride': 4}, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The reference's example."""
    optimizer = base.adamw(peak=5e-5, start=2e-6, end=2e-10, warmup_epochs=warmup_epochs, weight_decay=1e-4)
    config = base.cifar10(backbone, optimizer, epochs=50.0, batch_size=128)
    config['data']['image_size'] = 224
    return config


get_config = base.presets(
    cifar10=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=15.0),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(PLAIN, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'grid': (7, 7)}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

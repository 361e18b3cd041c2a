"""HiResNet-18: residual connections from every level of a ResNet into the output of every later one.

Hierarchical Residuals Exploit Brain-Inspired Compositionality, Lopez and Triesch, 2025,
https://arxiv.org/abs/2502.16003. No code is published.

    python train.py --config configs/hiresnet.py --workdir runs/hiresnet
    python train.py --config configs/hiresnet.py:digits --workdir runs/hiresnet_digits
    python train.py --config configs/hiresnet.py:input_digits --workdir runs/hiresnet_input_digits
    python train.py --config configs/hiresnet.py:plain_digits --workdir runs/hiresnet_plain_digits

Published: by the abstract, higher accuracy and faster learning than ResNet-18, ResNeXt and networks without residuals,
on CIFAR-10, CIFAR-100 and Tiny ImageNet; connections into the output help most. Not run here. The paper's recipe was
not at hand: `cifar10` has ours, 200 epochs of batches of 128, SGD with a Nesterov momentum of 0.9, a decay of 5e-4, a
rate of 0.1 under a cosine, images padded by 4 pixels, cropped and flipped. `plain_digits`, without these connections,
has a last stage of 63 channels, `digits` of 61 and `input_digits`, with those into the inputs of stages, of 62: as many
parameters within half a percent.
"""

from longview.configs import base

ACROSS = {'partial': 'modelzoo.layers.residuals.hierarchical:HierarchicalResidual', 'into': 'output'}
PLAIN = base.backbone('resnet18', stem_stride=1)
BACKBONE = PLAIN | {'across': ACROSS}
INPUT = BACKBONE | {'across': ACROSS | {'into': 'input'}}
SMALL = {'stem_width': 16, 'depths': (1, 1, 1), 'widths': (16, 32, 61)}
TINY = BACKBONE | {'drop_path': 0.1, 'stem_width': 16, 'depths': (1, 1), 'widths': (16, 32)}


def recipe(backbone):
    """Our run of a network."""
    optimizer = base.sgd(base.cosine(0.1, warmup_epochs=0.0), weight_decay=5e-4)
    return base.cifar10(backbone, optimizer, epochs=200.0, batch_size=128, padding=4)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(BACKBONE | SMALL, ema=None),
    input_digits=base.digits(INPUT | SMALL | {'widths': (16, 32, 62)}, ema=None),
    plain_digits=base.digits(PLAIN | SMALL | {'widths': (16, 32, 63)}, ema=None),
    fashion_mnist=base.fashion_mnist(BACKBONE | SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)

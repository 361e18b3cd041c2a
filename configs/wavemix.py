"""WaveMix of 7 blocks with 144 channels for CIFAR: a Haar wavelet transform mixes the pixels.

WaveMix: A Resource-efficient Neural Network for Image Analysis, Jeevan et al., 2022, https://arxiv.org/abs/2205.14375.
Recipe: https://github.com/pranavphoenix/WaveMix (MIT), Image_Classification/example_cifar10.py.

    python train.py --config configs/wavemix.py --workdir runs/wavemix
    python train.py --config configs/wavemix.py:digits --workdir runs/wavemix_digits

Published: 94.58 % on CIFAR-10 by the name of the authors' weights of this network, 75.06 % on ImageNet-1k by that of 16
blocks with 192 channels and three levels, whose training is not published. Not run here. AdamW at a constant rate of
1e-3 with a decay of 0.01, batches of 512, mirrored images, a dropout of 0.5 in every block, until 20 epochs in a row
have brought nothing. What differs: the code looks at the test images for that, and this at the last tenth of the
training images; its first optimizer is Lion at 1e-4, with AdamW beside it in a comment; it goes on with SGD from the
best weights; TrivialAugment is not built. A run ends after 300 epochs in any case.
"""

from longview.configs import base

BACKBONE = base.backbone('wavemix_144_7_level1_cifar', dropout=0.5, scan=False)
SMALL = BACKBONE | {'width': 32, 'depth': 3, 'dropout': 0.0}
TINY = BACKBONE | {'width': 16, 'depth': 2, 'levels': 2, 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=0.0, end=1e-3, weight_decay=0.01)
    config = base.cifar10(backbone, optimizer, epochs=300.0, batch_size=512, padding=0)
    config['data'] |= {'train_split': 'train[:90%]', 'eval_split': 'train[90%:]'}
    return config | {'patience': 20}


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL),
    fashion_mnist=base.fashion_mnist(SMALL | {'levels': 2}),
    smoke=base.smoke(recipe(TINY)),
)

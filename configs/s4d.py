"""S4D on images as sequences of pixels.

On the Parameterization and Initialization of Diagonal State Space Models, Gu et al., 2022,
https://arxiv.org/abs/2206.11893.
Recipe: the example of https://github.com/state-spaces/s4 (Apache-2.0), example.py.

    python train.py --config configs/s4d.py --workdir runs/s4d
    python train.py --config configs/s4d.py:digits --workdir runs/s4d_digits

Published: over 89 % on CIFAR-10 with colours after 80 epochs, by the example's own text. Not run here: `cifar10` is
TFDS's, which `python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 100 epochs of batches of
64, a rate of 0.01 along a cosine, a tenth of it and no decay for step sizes and poles, AdamW with a decay of 0.01. Not
expressed: dropout of 0.1; 10 % of the training images kept for validation.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 's4d_example',
    'width': 128,
    'depth': 4,
    'mixer': {'states': 64},
    'drop_path': 0.0,
    'dtype': 'float32',
}
SMALL = BACKBONE | {'width': 64, 'depth': 2}
TINY = BACKBONE | {'width': 8, 'depth': 2, 'mixer': {'states': 8}, 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network, which reads pixels in rows."""
    optimizer = base.adamw(peak=0.01, warmup_epochs=0.0, weight_decay=0.01)
    optimizer = base.apart(optimizer, '(log_dt|log_A_real|A_imag)$', rate=0.1)
    return base.cifar10(backbone, optimizer, epochs=100.0, batch_size=64)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL),
    fashion_mnist=base.fashion_mnist(SMALL),
    smoke=base.smoke(recipe(TINY)),
)

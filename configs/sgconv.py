"""SGConv on images as sequences of pixels.

What Makes Convolutional Models Great on Long Sequence Modeling?, Li et al., 2022, https://arxiv.org/abs/2210.09298.
The code published with it has the layer alone (https://github.com/ctlllll/SGConv); the network and the recipe are those
of https://github.com/state-spaces/s4 (Apache-2.0), example.py.

    python train.py --config configs/sgconv.py --workdir runs/sgconv
    python train.py --config configs/sgconv.py:digits --workdir runs/sgconv_digits

Published: none for this network; the paper's on CIFAR-10 are of larger ones. Not run here: `cifar10` is TFDS's, which
`python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 100 epochs of batches of 64, a rate of
0.01 along a cosine, a tenth of it and no decay for the kernels (the layer's own rate of 0.001), AdamW with a decay of
0.01. Not expressed: dropout of 0.1.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'sgconv_example',
    'width': 128,
    'depth': 4,
    'mixer': {'places': 1024, 'band': 64, 'bidirectional': True},
    'drop_path': 0.0,
    'dtype': 'float32',
}
SMALL = BACKBONE | {'width': 64, 'depth': 2}
TINY = BACKBONE | {'width': 8, 'depth': 2, 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network, which reads pixels in rows."""
    optimizer = base.adamw(peak=0.01, warmup_epochs=0.0, weight_decay=0.01)
    optimizer = base.apart(optimizer, 'band[0-9]+/kernel$', rate=0.1)
    return base.cifar10(backbone, optimizer, epochs=100.0, batch_size=64)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL | {'mixer': {'places': 64, 'band': 8, 'bidirectional': True}}),
    fashion_mnist=base.fashion_mnist(SMALL | {'mixer': {'places': 784, 'band': 32, 'bidirectional': True}}),
    smoke=base.smoke(recipe(TINY)),
)

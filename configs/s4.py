"""S4 on images as sequences of pixels.

Efficiently Modeling Long Sequences with Structured State Spaces, Gu, Goel and Ré, 2021,
https://arxiv.org/abs/2111.00396. Recipe: https://github.com/state-spaces/s4 (Apache-2.0),
configs/experiment/lra/s4-lra-cifar.yaml.

    python train.py --config configs/s4.py --workdir runs/s4
    python train.py --config configs/s4.py:digits --workdir runs/s4_digits
    python train.py --config configs/s4.py:diagonal_digits --workdir runs/s4_diagonal_digits

Published: 88.65 % on gray CIFAR-10 as sequences of 1,024 pixels, in the long-range arena. Not run here: `cifar10` is
TFDS's, in colours, which `python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 200 epochs
of batches of 50, a rate of 0.01 along a cosine after 1,000 steps, a tenth of it for poles, P and B, which like step
sizes do not decay; AdamW with a decay of 0.05. Not expressed: dropout of 0.1. `diagonal_digits` is S4D, without the
term of rank 1, in a network of as many channels and states.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 's4_lra_image',
    'width': 512,
    'depth': 6,
    'mixer': {'states': 64},
    'drop_path': 0.0,
    'dtype': 'float32',
}
SMALL = BACKBONE | {'variant': 's4_example', 'width': 64, 'depth': 2, 'mixer': {'states': 32}}
DIAGONAL = SMALL | {'variant': 's4d_example'}
TINY = SMALL | {'width': 8, 'mixer': {'states': 8}, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network, which reads pixels in rows."""
    optimizer = base.adamw(peak=0.01, warmup_epochs=warmup_epochs, weight_decay=0.05)
    slow = 'log_A_real|A_imag|/P|/B'
    optimizer |= {'decay_rules': ((f'({slow}|log_dt)$', 0.0),), 'rate_rules': ((f'({slow})$', 0.1),)}
    return base.cifar10(backbone, optimizer, epochs=200.0, batch_size=50)


get_config = base.presets(
    cifar10=recipe(BACKBONE, warmup_epochs=1.0),
    digits=base.digits(SMALL),
    diagonal_digits=base.digits(DIAGONAL),
    fashion_mnist=base.fashion_mnist(SMALL),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.0)),
)

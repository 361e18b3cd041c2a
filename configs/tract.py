"""TrAct: supervised training with another gradient for the first layer.

TrAct: Making First-layer Pre-Activations Trainable, Petersen et al., 2024, https://arxiv.org/abs/2410.23970.

    python train.py --config configs/tract.py:digits --workdir runs/tract_digits
    python train.py --config configs/tract.py:fashion_mnist --workdir runs/tract_fashion

Published: training to the same accuracy 1.25 to 4 times as fast, over many networks. Not run here. Lambda is 0.1,
the published default.
"""

from longview.configs import base


def corrected(config, stride, padding):
    """`config` with the first layer's closed form."""
    task = {
        'fn': 'methods.optim.tract:TrAct',
        'inner': config['task'],
        'stride': stride,
        'padding': padding,
        'shrinkage': 0.1,
        'kernel': 'backbone/stem/conv/kernel',
    }
    return config | {'task': task}


get_config = base.presets(
    digits=corrected(base.digits(base.RESNET, ema=None), stride=1, padding=1),
    fashion_mnist=corrected(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None), stride=2, padding=3),
)

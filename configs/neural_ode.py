"""ODE-Net: six residual blocks as one differential equation, solved to a tolerance.

Neural Ordinary Differential Equations, Chen et al., 2018, https://arxiv.org/abs/1806.07366. Recipe:
https://github.com/rtqichen/torchdiffeq (MIT), examples/odenet_mnist.py.

    python train.py --config configs/neural_ode.py --workdir runs/neural_ode
    python train.py --config configs/neural_ode.py:digits --workdir runs/neural_ode_digits
    python train.py --config configs/neural_ode.py:adjoint_digits --workdir runs/neural_ode_adjoint_digits
    python train.py --config configs/neural_ode.py:plain_digits --workdir runs/neural_ode_plain_digits

Published: 0.42 % test error on MNIST with 0.22 M parameters, where a residual network has 0.41 % with 0.60 M. Not run
here: `fashion_mnist` is that recipe on a harder set of the same form: momentum 0.9 at a rate of 0.1, a tenth of it
after 60, 100 and 140 of 160 epochs, batches of 128, shifts of up to 4 pixels, dopri5 with tolerances of 1e-3. `digits`
has gradients of the steps that were taken, `adjoint_digits` those of the equation solved backwards, `plain_digits`
six residual blocks. It needs diffrax: ``pip install longview[ode]``.
"""

from longview.configs import base

BLOCK = {'partial': 'modelzoo.layers.ode:ODEBlock', 'solver': 'dopri5', 'rtol': 1e-3, 'atol': 1e-3}
BACKBONE = base.backbone('ode_net_mnist', block=BLOCK)
SMALL = {'width': 16, 'groups': 4}


def solved(adjoint='checkpoints', **fields):
    return BACKBONE | {'block': BLOCK | {'adjoint': adjoint}} | fields


def recipe(backbone):
    """The example's run."""
    config = base.fashion_mnist(backbone, epochs=160.0, ema=None)
    schedule = base.staircase(0.1, (60, 100, 140))
    optimizer = base.sgd(schedule, nesterov=False, weight_decay=0.0)
    crop = {'fn': 'data.images:PadCrop', 'padding': 4, 'flip': False}
    task = config['task'] | {'label_smoothing': 0.0}
    return config | {'task': task, 'optimizer': optimizer, 'data': config['data'] | {'train_crop': crop}}


def digits(backbone):
    """Digits of 16 x 16 pixels, of which the stem leaves 3 x 3."""
    config = base.digits(backbone)
    return config | {'data': config['data'] | {'image_size': 16}}


get_config = base.presets(
    fashion_mnist=recipe(solved()),
    digits=digits(solved(**SMALL)),
    adjoint_digits=digits(solved('backsolve', **SMALL)),
    plain_digits=digits(BACKBONE | SMALL | {'depth': 6, 'block': None}),
    smoke=base.smoke(recipe(solved(**SMALL))),
)

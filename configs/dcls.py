"""ConvNeXt-T whose depthwise convolutions learn where in a large kernel their weights are.

Dilated convolution with learnable spacings, Khalfaoui-Hassani et al., 2021, https://arxiv.org/abs/2112.03740; with
other interpolations in https://arxiv.org/abs/2306.00817. Recipe: https://github.com/K-H-Ismail/ConvNeXt-dcls (MIT),
main.py, engine.py and optim_factory.py, which is that of ConvNeXt (configs/convnext_t.py) with the positions' own.

    python train.py --config configs/dcls.py --workdir runs/convnext_dcls_t
    python train.py --config configs/dcls.py:digits --workdir runs/dcls_digits
    python train.py --config configs/dcls.py:plain_digits --workdir runs/plain_dcls_digits
    python train.py --config configs/dcls.py --workdir runs/convnext_dcls_s \\
        --config.task.inner.inner.backbone.variant=convnext_dcls_small --config.task.inner.inner.backbone.drop_path=0.4

Published: 28 M parameters, 82.5 % top-1 on ImageNet-1k at 224 px, where ConvNeXt-T has 82.1 %. Not run here. 300
epochs of batches of 4,096, 20 of them warm-up to a rate of 4e-3, a cosine to 1e-6, averaged weights. Positions have
five times the rate and no decay, are kept inside of the kernel, and repel each other from the 22nd epoch on. bfloat16
with float32 parameters. `digits` has nine weights in kernels of 7x7, `gauss_digits` with the other interpolation, and
`plain_digits` the same network with plain kernels of 3x3. `resnet_digits` is a residual network with three weights in
kernels of 5x5, and `plain_resnet_digits` has as many parameters in plain kernels of 3x3. What they reach:
docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('convnext_dcls_tiny', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
DCLS = {'partial': 'modelzoo.layers.convolutions.dcls:Dcls', 'count': 9, 'interpolation': 'v0'}
SIZES = {'widths': (16, 32), 'depths': (2, 2), 'patch': 1}
SMALL = BACKBONE | SIZES | {'kernel_size': 7, 'conv': DCLS}
PLAIN = base.backbone('convnext_tiny', scan=False) | SIZES | {'kernel_size': 3}
TINY = SMALL | {'patch': 4, 'drop_path': 0.1}
HE = {'fn': 'jax.nn.initializers:variance_scaling', 'scale': 2.0, 'mode': 'fan_out', 'distribution': 'normal'}
PLAIN_RESNET = base.backbone('resnet18', stem_stride=1, stem_width=16, depths=(1, 1), widths=(16, 32))
# A weight and its two coordinates are three parameters: as many as nine weights.
RESNET = PLAIN_RESNET | {'conv': DCLS | {'count': 3, 'use_bias': False, 'dilated_size': 5, 'kernel_init': HE}}
# Steps of 21 epochs.
BEGINS = 21 * (base.IMAGENET_SIZE // 4096)


def spaced(config, bound, begins, positions='positions'):
    """A run with the rate, the bound and the repulsion of positions."""
    wrap = lambda task: {'fn': 'methods.spacings:Spacings', 'inner': task, 'bound': float(bound), 'begins': begins}
    task = config['task']
    task = task | {'inner': wrap(task['inner'])} if 'decay' in task else wrap(task)
    return config | {'task': task, 'optimizer': base.apart(config['optimizer'], positions, 5.0)}


def recipe(backbone, bound, begins, **schedule):
    """The published run of a network."""
    config = base.imagenet(backbone, base.adamw(peak=4e-3, weight_decay=0.05, **schedule), batch_size=4096)
    return spaced(config, bound, begins)


get_config = base.presets(
    imagenet=recipe(PAPER, 8, BEGINS, end=1e-6, warmup_epochs=20.0),
    digits=spaced(base.digits(SMALL), 3, 0),
    gauss_digits=spaced(base.digits(SMALL | {'conv': DCLS | {'interpolation': 'gauss'}}), 3, 0, 'positions|widths'),
    plain_digits=base.digits(PLAIN),
    resnet_digits=spaced(base.digits(RESNET, ema=None), 2, 0),
    plain_resnet_digits=base.digits(PLAIN_RESNET, ema=None),
    fashion_mnist=spaced(base.fashion_mnist(SMALL | {'patch': 2}), 3, 0),
    smoke=base.smoke(recipe(TINY, 3, 6, warmup_epochs=0.1)),
)

"""NiNformer of 4 blocks with 256 channels for CIFAR-10: a gate made by an MLP-Mixer block, instead of attention.

NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function, Abdullah and Aydin, 2024,
https://arxiv.org/abs/2403.02411. Recipe: https://github.com/Abdullah-88/NiNformer (BSD-3-Clause), train.py.

    python train.py --config configs/ninformer.py --workdir runs/ninformer
    python train.py --config configs/ninformer.py:digits --workdir runs/ninformer_digits
    python train.py --config configs/ninformer.py:vit_digits --workdir runs/ninformer_vit_digits
    python train.py --config configs/ninformer.py:plain_digits --workdir runs/ninformer_plain_digits
    python train.py --config configs/ninformer.py:mixer_digits --workdir runs/ninformer_mixer_digits

Published: better than a ViT and an MLP-Mixer on MNIST, CIFAR-10 and CIFAR-100, by the abstract; the repository has no
figures. CIFAR-10 was not run here. Adam at a constant rate of 1e-3 without decay, batches of 128, 100 epochs, images as
they are with pixels from -1 to 1, a dropout of 0.5 in every feed-forward layer. `digits` is a small network without
dropout, `vit_digits` a ViT that takes the gate as its mixer, `plain_digits` that ViT with attention and `mixer_digits`
an MLP-Mixer, all with about as many parameters. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('ninformer_256_4_cifar', dropout=0.5, scan=False)
SMALL = BACKBONE | {'width': 32, 'depth': 3, 'patch': 2, 'dropout': 0.0}
TINY = BACKBONE | {'width': 16, 'depth': 2, 'patch': 8, 'drop_path': 0.1}
# The gate's initial values, torch's, for the networks beside it as well: smaller ones learn more slowly.
INIT = {'fn': 'jax.nn.initializers:variance_scaling', 'scale': 1 / 3, 'mode': 'fan_in', 'distribution': 'uniform'}
MLP = {'partial': 'modelzoo.layers.frame.mlp:Mlp', 'ratio': 3, 'kernel_init': INIT}
PLAIN = base.VIT | {
    'width': 32,
    'depth': 3,
    'patch': 2,
    'mixer': {'partial': 'modelzoo.layers.attention.attention:Attention', 'kernel_init': INIT},
    'mlp': MLP,
}
GATED = PLAIN | {
    'mixer': {'partial': 'modelzoo.layers.mixers.mixer_gate:MixerGate', 'ratio': 2.0},
    'mlp': MLP | {'ratio': 2},
}
MIXER = base.backbone('mixer_s32_224', width=32, depth=3, patch=2, mlp=MLP | {'ratio': 5})


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=0.0, end=1e-3, weight_decay=0.0)
    scale = [base.normalize(base.HALF, base.HALF)]
    config = base.cifar10(backbone, optimizer, epochs=100.0, batch_size=128)
    return config | {'train_transforms': scale, 'eval_transforms': scale}


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL),
    vit_digits=base.digits(GATED),
    plain_digits=base.digits(PLAIN),
    mixer_digits=base.digits(MIXER),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}),
    smoke=base.smoke(recipe(TINY)),
)

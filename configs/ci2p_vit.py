"""CI2P-ViT: a ViT on the frozen encoder of a network that compresses images.

Compress image to patches for Vision Transformer, Zhao and Sun, 2025, https://arxiv.org/abs/2502.10120. Recipe:
https://github.com/fanchy/ci2pvit (Apache-2.0), commit 167538b, mmbase_cfg.py.

    python train.py --config configs/ci2p_vit.py --workdir runs/ci2p_vit
    python train.py --config configs/ci2p_vit.py:digits --workdir runs/ci2p_vit_digits
    python train.py --config configs/ci2p_vit.py:learned_digits --workdir runs/ci2p_vit_learned_digits
    python train.py --config configs/ci2p_vit.py:encoded_digits --workdir runs/ci2p_vit_encoded_digits

Published: 92.37 % on Animals-10, trained on it alone; here on ImageNet-1k at 256 px, and not run. 500 epochs of batches
of 128, 20 of them warm-up, AdamW at 1e-4 with a decay of 0.05, a cosine to 1.25e-6, stochastic depth 0.1, RandAugment,
mixup 0.8 or cutmix 1.0, erasing. The encoder gets neither a gradient nor decay. Not expressed: its published weights,
which are those of CompressAI's bmshj2018-factorized at quality 5, so that it stays as it starts unless they are read;
the cosine's period of 280 epochs, after which the rate rises again; gray, blurred and solarized images beside
RandAugment. Trained in float32, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).

The small presets have an encoder of one convolution, as it starts, and in `learned_digits` one that learns.
`encoded_digits` first trains an autoencoder on the images, then the network on its frozen encoder. `ds_imagenet` is
the network of two scales, whose paper's figure is 77 % on ImageNet-1k.
"""

from ml_collections import config_dict

from longview.configs import base

BACKBONE = base.backbone('ci2p_vit_base_256', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'encoder': (24,), 'width': 64, 'depth': 3, 'heads': 2}
DIGITS = SMALL | {'pixels': ((0.305,), (0.376,))}
KEPT = (('encoder', 0.0),)
TINY = SMALL | {'encoder': (16, 16), 'width': 32, 'depth': 2, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = {'peak': 1e-4, 'end': 1.25e-6, 'warmup_epochs': warmup_epochs}
    optimizer = base.adamw(weight_decay=0.05, decay_rules=KEPT, **schedule)
    data = {'image_size': 256, 'eval_fraction': 256 / 292}
    return base.imagenet(backbone, optimizer, epochs=500.0, batch_size=128, ema=None, **data)


def kept(config):
    """`config` without decay of the encoder."""
    config['optimizer']['decay_rules'] = KEPT
    return config


def autoencoded(config):
    """Trains an autoencoder with that encoder on the images of `config`, which are not normalized."""
    unit = [base.normalize((0.0,), (1.0,))]
    task = {
        'fn': 'methods.restore.regress:Regress',
        'network': {'fn': 'modelzoo.restorers.autoencoder:Autoencoder', 'widths': DIGITS['encoder']},
        'terms': {'squared': 1.0},
        'degrade': {'fn': 'methods.generate.disturbed:AddNoise', 'deviation': 0.0},
    }
    optimizer = base.adamw(peak=3e-3, warmup_epochs=1, end=3e-5, weight_decay=0.0)
    return config | {
        'task': task,
        'optimizer': optimizer,
        'train_transforms': unit,
        'eval_transforms': unit,
        'best': 'eval/psnr',
    }


def staged(config):
    """An autoencoder, then the network of `config` on its encoder."""
    config |= {'seed': config_dict.FieldReference(0)}
    read = {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'autoencoder'}}
    start = {'fn': 'methods.start:Start', 'inner': config['task'], 'read': read}
    task = start | {'parts': {'backbone/stem/encoder': 'encoder'}}
    stages = {'autoencoder': autoencoded(config), 'network': config | {'task': task}}
    return {'stages': stages, 'order': tuple(stages)}


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=20.0),
    digits=kept(base.digits(DIGITS)),
    learned_digits=base.digits(DIGITS | {'frozen': False}),
    encoded_digits=staged(kept(base.digits(DIGITS))),
    ds_imagenet=recipe(PAPER | {'early_heads': 3}, warmup_epochs=20.0),
    ds_digits=kept(base.digits(DIGITS | {'early_heads': 1})),
    fashion_mnist=kept(base.fashion_mnist(SMALL | {'encoder': (16, 24), 'pixels': ((0.2860,), (0.3530,))})),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

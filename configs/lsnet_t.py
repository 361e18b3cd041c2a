"""LSNet-T: small kernels whose taps depend on what a large kernel sees.

LSNet: See Large, Focus Small, Wang et al., 2025, https://arxiv.org/abs/2503.23135. Recipe:
https://github.com/jameslahm/lsnet (no licence), commit cbe737c, main.py, train.sh and README.md.

    python train.py --config configs/lsnet_t.py --workdir runs/lsnet_t
    python train.py --config configs/lsnet_t.py --workdir runs/lsnet_b \
        --config.task.inner.backbone.variant=lsnet_b --config.optimizer.weight_decay=0.05
    python train.py --config configs/lsnet_t.py:taught_imagenet --workdir runs/lsnet_t_distill
    python train.py --config configs/lsnet_t.py:digits --workdir runs/lsnet_digits
    python train.py --config configs/lsnet_t.py:plain_digits --workdir runs/lsnet_plain_digits

Published: 11.4 M parameters, 74.9 % top-1 on ImageNet-1k at 224 px; LSNet-S 77.8 %, LSNet-B 80.3 %. Not run here. 300
epochs of batches of 256 on each of 8 devices at a rate of 1e-3 per 512 images, 5 epochs of them warm-up from 1e-6, down
to 1e-5; AdamW with a decay of 0.025 (LSNet-B: 0.05) on all but attention biases and vectors; the gradient of each unit
clipped to 0.02 of its weights' norm, the head's too; weights averaged by 0.99996. Not expressed: repeated augmentation
(each image three times in an epoch of a third as many); 10 more epochs at the last rate; the scale and bias of the
norm before the head, which the head can learn as well. Trained in float32, and here in bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).

`taught_imagenet` has a second head, which learns the decisions of DeiT's RegNetY-16GF, 82.9 % (timm's file of it, from
the Hugging Face hub), with half of the loss. Published: LSNet-T 76.1 %, LSNet-S 79.0 %, LSNet-B 81.6 %.

The small presets have three stages of two blocks; `plain_digits` has the three branches of its first block in the place
of each large-small convolution.
"""

from longview.configs import base

BACKBONE = base.backbone('lsnet_t')
SMALL = BACKBONE | {'widths': (32, 48, 64), 'depths': (2, 2, 2), 'stem_stride': 1, 'image_size': 8}
PLAIN = SMALL | {'mixer': {'partial': 'modelzoo.vision.lsnet:ThreeBranches'}}
TINY = SMALL | {'widths': (16, 32), 'depths': (2, 2), 'stem_stride': 4, 'image_size': 32, 'drop_path': 0.1}
KEPT = (('pos_embed', 0.0),)


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = {'start': 1e-6, 'end': 1e-5, 'warmup_epochs': warmup_epochs}
    optimizer = base.adamw(peak=4e-3, weight_decay=0.025, decay_rules=KEPT, **schedule)
    clipped = optimizer | {'adaptive_clip': 0.02, 'adaptive_clip_spare': None}
    return base.imagenet(backbone, clipped, batch_size=2048, ema=0.99996)


def taught(config, backbone):
    """The run with a second head, whose labels are a teacher's decisions."""
    student = {
        'fn': 'modelzoo.heads:Classifier',
        'backbone': backbone,
        'head': {'fn': 'modelzoo.vision.lsnet:TwoHeads', 'num_classes': None},
    }
    teacher = {
        'fn': 'modelzoo:create_model',
        'name': 'regnety_160',
        'weights': 'timm/regnety_160.deit_in1k',
        'dtype': 'bfloat16',
    }
    task = {
        'fn': 'methods.distill.logits:Distill',
        'student': student,
        'teachers': [teacher],
        'hard': True,
        'label_weight': 0.5,
    }
    return config | {'task': config['task'] | {'inner': task}}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=5.0),
    taught_imagenet=taught(recipe(BACKBONE, warmup_epochs=5.0), base.backbone('lsnet_t_distill', dtype='bfloat16')),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(PLAIN, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

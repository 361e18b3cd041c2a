"""MEAL V2: a trained network learns from the mean answer of several others, without labels.

MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks, Shen and Savvides, 2020,
https://arxiv.org/abs/2009.08453. Recipe: https://github.com/szq0214/MEAL-V2 (MIT).

    python train.py --config configs/vit_s16.py:digits --workdir runs/vit_s16_digits
    python train.py --config configs/deit_s.py:digits --workdir runs/deit_s_digits
    python train.py --config configs/meal_v2.py:digits --workdir runs/meal_v2_digits

Published: 80.67 % top-1 on ImageNet-1k at 224 px, ResNet-50, taught by SENet-154 and ResNet-152. Not run here. Preset
`digits` has the averaged weights of the first two commands' runs as teachers, and those of the first as the student's
start; no weight decay, no label smoothing.
"""

from longview.configs import base

DEIT = {'fn': 'modelzoo.vision.vit:vit', 'variant': 'deit_small_patch16_224', 'drop_path': 0.0, 'width': 64, 'heads': 2}


def trained(backbone, workdir):
    """A classifier with the best weights of another run."""
    return {
        'fn': 'methods.start:Trained',
        'backbone': backbone,
        'head': base.linear(),
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': workdir},
        'averaged': True,
    }


def taught(small, vit, deit):
    """A ViT goes on from its own run and learns the answers of that run and of DeiT's: (backbone, workdir) each."""
    config = small(vit[0], peak=1e-3, ema=None)
    task = {
        'fn': 'methods.distill.logits:Distill',
        'student': trained(*vit),
        'teachers': [trained(*vit), trained(*deit)],
        'temperature': 1.0,
        'label_weight': 0.0,
        'discriminator_weight': 1.0,
    }
    return config | {'task': task, 'optimizer': config['optimizer'] | {'weight_decay': 0.0}}


get_config = base.presets(
    digits=taught(
        base.digits,
        vit=(base.VIT | {'patch': 2, 'depth': 4}, 'runs/vit_s16_digits'),
        deit=(DEIT | {'patch': 2, 'image_size': 8, 'depth': 4}, 'runs/deit_s_digits'),
    ),
    fashion_mnist=taught(
        base.fashion_mnist,
        vit=(base.VIT | {'patch': 4, 'depth': 3}, 'runs/vit_s16_fashion'),
        deit=(DEIT | {'patch': 4, 'image_size': 28, 'depth': 3}, 'runs/deit_s_fashion'),
    ),
)

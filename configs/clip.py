"""CLIP: digits and their captions find each other, and digits are told apart by naming them.

Learning Transferable Visual Models From Natural Language Supervision, Radford et al., 2021,
https://arxiv.org/abs/2103.00020.

    python train.py --config configs/clip.py:digits --workdir runs/clip_digits
    python train.py --config configs/clip.py:digits_labels --workdir runs/clip_digits_labels

Published: 63.2 % top-1 without training on ImageNet-1k, ViT-B/32, from 400 million pairs of the web. Not run here.
eval/accuracy is that of the digits named in two sentences, no label having been read; digits_labels is the same image
network on the same pictures for as many steps, with the labels in place of the captions.
"""

from longview.configs import base

SPLIT = {'partial': 'data.captions:digits'}
DATA = {
    'fn': 'input_pipeline:Arrays',
    'train_split': SPLIT | {'copies': 4, 'seed': 0},
    'eval_split': SPLIT | {'test': True, 'seed': 1},
    'num_classes': 10,
}
TEXT = {
    'fn': 'modelzoo.text.transformer:Transformer',
    'vocabulary': 24,
    'width': 64,
    'depth': 2,
    'heads': 2,
    'places': 8,
    'causal': True,
    'pool': 'last',
}
PAIRED = {
    'fn': 'methods.contrast.clip:Clip',
    'image': base.RESNET,
    'text': TEXT,
    'width': 32,
    'prompts': {'partial': 'data.captions:prompts'},
}


def run(task):
    transforms = [base.normalize((0.152,), (0.271,))]
    optimizer = base.adamw(peak=3e-3, warmup_epochs=2.0, end=3e-5, clip_norm=1.0)
    return base.run(
        {'fn': 'methods.ema:Ema', 'inner': task, 'decay': 0.99, 'warmup': True},
        DATA,
        optimizer,
        epochs=12.0,
        batch_size=256,
        train_transforms=transforms,
        eval_transforms=transforms,
    )


LABELLED = {'fn': 'methods.supervised:Supervised', 'backbone': base.RESNET, 'head': base.linear()}

get_config = base.presets(digits=run(PAIRED), digits_labels=run(LABELLED))

"""PiSSA: a trained network adapted by the principal low-rank part of its matrices.

PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models, Meng et al., 2024,
https://arxiv.org/abs/2404.02948.

    python train.py --config configs/vit_s16.py:digits --workdir runs/vit_s16_digits
    python train.py --config configs/pissa.py:digits --workdir runs/pissa_digits

Published: 77.7 % on GSM8K with Gemma-7B, LoRA 74.53 %. Not run here. Preset `digits` takes the averaged
weights of the first command's run, gives them a new head and adapts the blocks at rank 4 to the negatives of the
images; `fashion_mnist` does the same from a run of configs/vit_s16.py:fashion_mnist. LoRA is
`--config.task.start.partial=methods.peft.low_rank:lora`.
"""

from longview.configs import base


def adapted(config, run):
    """`config` for negatives, from another run's weights, its matrices moved within a low rank."""
    (normalize,) = config['train_transforms']
    negative = [normalize | {'std': tuple(-x for x in normalize['std'])}]
    start = {
        'fn': 'methods.start:Start',
        'inner': config['task'],
        'averaged': True,
        'fresh': 'head/.*',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': run},
    }
    task = {
        'fn': 'methods.peft.low_rank:LowRank',
        'inner': start,
        'rank': 4,
        'alpha': base.unset(float),
        'start': {'partial': 'methods.peft.low_rank:pissa'},
        'pattern': '.*block.*kernel',
        'trained': 'head/.*',
    }
    return config | {'task': task, 'train_transforms': negative, 'eval_transforms': negative}


get_config = base.presets(
    digits=adapted(base.digits(base.VIT | {'patch': 2, 'depth': 4}, ema=None), 'runs/vit_s16_digits'),
    fashion_mnist=adapted(base.fashion_mnist(base.VIT | {'patch': 4, 'depth': 3}, ema=None), 'runs/vit_s16_fashion'),
)

"""DiT with dynamic token routing: at every layer tokens choose to stay, to move to a coarser scale, or both.

DiT: Efficient Vision Transformers with Dynamic Token Routing, Ma et al., 2023, https://arxiv.org/abs/2308.03409.

    python train.py --config configs/dit_routing.py --workdir runs/dit_routing
    python train.py --config configs/dit_routing.py:digits --workdir runs/dit_routing_digits
    python train.py --config configs/dit_routing.py:static_digits --workdir runs/dit_routing_static_digits

Published: 84.8 % on ImageNet-1k with 10.3 billion multiply-adds, of DiT-B5. Not run here: no code was published, and
neither the sizes nor the training are the paper's. `imagenet` is DeiT's recipe with a budget of half the cost of all
paths from the first tenth of the steps on. `digits` has two scales, four layers and the same budget; `static_digits`
is the network of all paths with fewer channels, which costs as much. eval/hard_cost is the share of the cost of all
paths that is spent.
"""

from longview.configs import base

BACKBONE = base.backbone('dit_routing_ours', forced=False)
SMALL = BACKBONE | {'widths': (32, 64), 'heads': (2, 4), 'reductions': (1, 1), 'depth': 4, 'patch': 2, 'ratio': 2.0}
TINY = BACKBONE | {'widths': (8, 16), 'heads': (1, 2), 'reductions': (2, 1), 'depth': 2, 'drop_path': 0.1}
STATIC = SMALL | {'widths': (24, 40), 'forced': True}


def routed(config, steps, budget=0.5):
    """The objective with a budget, which counts after a tenth of the steps."""
    task = config['task']
    while 'inner' in task:
        task = task['inner']
    return config | {
        'task': {
            'fn': 'methods.exits.skip:Skip',
            'backbone': task['backbone'],
            'head': task['head'],
            'alpha': 0.0,
            'budget': budget,
            'budget_weight': 0.8,
            'budget_from': steps // 10,
            'budget_warmup': max(1, steps // 50),
        }
    }


def recipe(backbone):
    """DeiT's: the paper's own is not known."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=5, end=1e-5, clip_norm=1.0)
    return routed(base.imagenet(backbone, optimizer, ema=None), steps=375_000)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1}),
    digits=routed(base.digits(SMALL, epochs=60.0, ema=None), steps=674),
    static_digits=base.digits(STATIC, epochs=60.0, ema=None),
    fashion_mnist=routed(base.fashion_mnist(SMALL | {'patch': 4, 'reductions': (2, 1)}, ema=None), steps=7031),
    smoke=base.smoke(recipe(TINY)),
)

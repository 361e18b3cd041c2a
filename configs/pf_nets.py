"""Parameter-free layers: maxima in the place of convolutions and attention, and a search that chooses among them.

Learning Features with Parameter-Free Layers, Han et al., 2022, https://arxiv.org/abs/2202.02777. Recipe:
https://github.com/naver-ai/PfLayer (Apache-2.0), README.md.

    python train.py --config configs/pf_nets.py --workdir runs/resnet50_hybrid
    python train.py --config configs/pf_nets.py:vit_imagenet --workdir runs/vit_s_max
    python train.py --config configs/pf_nets.py:digits --workdir runs/max_digits
    python train.py --config configs/pf_nets.py:depthwise_digits --workdir runs/depthwise_digits
    python train.py --config configs/pf_nets.py:plain_digits --workdir runs/conv_digits
    python train.py --config configs/pf_nets.py:search_digits --workdir runs/search_digits
    python train.py --config configs/pf_nets.py:random_digits --workdir runs/random_search_digits

Published: ResNet-50 with maxima where the resolution stays 77.1 % top-1 on ImageNet-1k at 224 px, with maxima
everywhere 74.3 %, without 76.2 %; ViT-S with maxima in every second block 80.0 %. Not run here. 90 epochs of batches of
1,024, SGD with a momentum of 0.9 and a decay of 1e-4, three epochs of warm-up to a rate of 0.2 that is divided by ten
every 30 epochs, no label smoothing; mixed precision in float16 and here in bfloat16. ViT: the script of DeiT with its
defaults, 4 processes of 256 images, without repeated augmentation here.

The small presets are networks of the same four bottlenecks. `search_digits` has stages: `search` trains mixtures of
five operations and their weights, on two halves of the images; `found` is the network of the operations that weigh
most, and `trained` that network from random weights on all images. In `random_digits` the search draws one operation a
step and block, and `found` is the best of 50 drawn networks on the half that the search has not seen. What they reach:
docs/results.md.
"""

from ml_collections import config_dict

from longview.configs import base

ONCE = 10_000  # steps between evaluations: only after the last one
HALVES = (tuple(range(0, 1438, 2)), tuple(range(1, 1438, 2)))
OPS = ('Convolved', 'Depthwise', 'MaxPool', 'MeanPool', 'Unchanged')


def bottleneck(**spatial):
    """A block with another operation in the place of its 3x3 convolution."""
    return {'partial': 'modelzoo.vision.resnet:Bottleneck', 'spatial': spatial}


def op(name):
    return {'partial': f'modelzoo.layers.convolutions.spatial:{name}'}


def mixed(**fields):
    return bottleneck(partial='modelzoo.layers.convolutions.mixed:Mixed', ops=tuple(map(op, OPS)), **fields)


BACKBONE = base.backbone('resnet50_hybrid')
VIT = base.backbone('vit_s_max')
SMALL = base.backbone('resnet50', stem_stride=1, stem_width=16, depths=(2, 2), widths=(64, 128))
TINY = BACKBONE | {'drop_path': 0.1, 'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64)}


def recipe(backbone, warmup_epochs=3.0):
    """The published run of a ResNet."""
    schedule = base.staircase(0.2, (30.0, 60.0), warmup_epochs=warmup_epochs)
    return base.imagenet(backbone, base.sgd(schedule, nesterov=False), epochs=90.0, batch_size=1024, ema=None) | {
        'train_transforms': [base.normalize()]
    }


def vit_recipe(backbone):
    """The published run of a ViT."""
    rules = (('pos_embed', 0.0),)
    optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, decay_rules=rules)
    return base.imagenet(backbone | {'drop_path': 0.1, 'dtype': 'bfloat16'}, optimizer, ema=None)


def half(data, number):
    """Half of the training examples; what an override could set is left out, for it does not reach into a list."""
    fixed = {key: value for key, value in data.items() if key not in ('data_dir', 'image_size')}
    return {'fn': 'data.subset:Subset', 'data': fixed, 'indices': HALVES[number]}


def staged(search, found):
    """A search, the network that it found, and that one trained."""
    config = base.digits(SMALL, ema=None)
    config |= {'seed': config_dict.FieldReference(0), 'eval_every': ONCE, 'save_every': ONCE, 'log_every': 100}
    network = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'found'}},
    }
    trained = config | {'task': {'fn': 'methods.supervised:Supervised', 'network': network, 'label_smoothing': 0.1}}
    stages = {
        'search': search(config),
        'found': found | {'run': {'stage': 'search'}, 'seed': config['seed']},
        'trained': trained,
    }
    return {'stages': stages, 'order': tuple(stages)}


def trained_alpha(config):
    """Both halves in each batch."""
    task = config['task'] | {'backbone': SMALL | {'block': mixed()}}
    parts = [half(config['data'], number) for number in (0, 1)]
    return config | {
        'task': {'fn': 'methods.nas.mixed:Search', 'inner': task},
        'data': {'fn': 'data.mixture:Mixture', 'parts': parts, 'per_batch': (64, 64)},
    }


def drawn_ops(config):
    """The first half alone."""
    task = config['task'] | {'backbone': SMALL | {'block': mixed(random=True)}}
    return config | {'task': task, 'data': half(config['data'], 0), 'epochs': 60.0}


DRAWN = {
    'fn': 'methods.nas.mixed:Drawn',
    'data': base.digits(SMALL)['data'] | {'eval_split': 'train'},
    'held': HALVES[1],
}

get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    vit_imagenet=vit_recipe(VIT),
    digits=base.digits(SMALL | {'block': bottleneck(**op('MaxPool'))}, ema=None),
    depthwise_digits=base.digits(SMALL | {'block': bottleneck(**op('Depthwise'))}, ema=None),
    hybrid_digits=base.digits(SMALL | {'block': bottleneck(**op('Hybrid'))}, ema=None),
    plain_digits=base.digits(SMALL, ema=None),
    search_digits=staged(trained_alpha, {'fn': 'methods.nas.mixed:Picked'}),
    random_digits=staged(drawn_ops, DRAWN),
    fashion_mnist=base.fashion_mnist(SMALL | {'block': bottleneck(**op('MaxPool')), 'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)

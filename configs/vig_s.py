"""ViG: bidirectional gated linear attention for images, at one resolution and (ViG-H) in a hierarchy of them.

ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention, Liao et al., 2024,
https://arxiv.org/abs/2405.18425. Recipe: https://github.com/hustvl/ViG (MIT), classification/configs/vig and vig-h.

    python train.py --config configs/vig_s.py --workdir runs/vig_s
    python train.py --config configs/vig_s.py:digits --workdir runs/vig_s_digits
    python train.py --config configs/vig_s.py:h_t_digits --workdir runs/vig_h_t_digits

The presets `imagenet`, `digits`, `fashion_mnist` and `smoke` are ViG-S; each other variant has the same four under its
own letters, as in `t_imagenet`, `b_digits` and `h_t_smoke`.

Published: top-1 on ImageNet-1k at 224 px. Not run here.

| variant | letters | parameters | top-1  | peak rate per 512 images | drop path | weight decay | trained in |
|---------|---------|------------|--------|--------------------------|-----------|--------------|------------|
| ViG-T   | t_      | 6 M        | 77.2 % | 1e-3                     | 0         | 0.05         | float32    |
| ViG-S   | none    | 23 M       | 81.7 % | 5e-4                     | 0.2       | 0.1          | float32    |
| ViG-B   | b_      | 89 M       | 82.6 % | 1e-3                     | 0.5       | 0.05         | float32    |
| ViG-H-T | h_t_    | 29 M       | 82.8 % | 8e-4                     | 0.2       | 0.05         | float16    |
| ViG-H-S | h_s_    | 50 M       | 83.8 % | 5e-4                     | 0.3       | 0.05         | float16    |
| ViG-H-B | h_b_    | 89 M       | 84.2 % | 5e-4                     | 0.6       | 0.05         | float16    |

All: 300 epochs of batches of 1,024 (ViG-B on two hosts, 64 images a GPU), 20 of them warm-up; weight decay on every
parameter of two or more axes, the position table and the depthwise kernels included. ViG-T's yaml sets no drop path, so
its default of 0 holds. Here all are trained in bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

# The sizes of the small networks.
FLAT = {
    'digits': {'patch': 2, 'image_size': 8, 'width': 64, 'depth': 4, 'heads': 2},
    'fashion_mnist': {'patch': 4, 'image_size': 28, 'width': 64, 'depth': 3, 'heads': 2},
    'smoke': {'patch': 8, 'image_size': 32, 'width': 32, 'depth': 2, 'heads': 2},
}
HIERARCHY = {
    'digits': {'patch': 2, 'width': 32, 'depths': (2, 2), 'heads': (1, 2)},
    'fashion_mnist': {'patch': 4, 'width': 48, 'depths': (2, 2, 2), 'heads': (2, 4, 8)},
    'smoke': {'width': 16, 'depths': (1, 2, 1), 'heads': (1, 2, 4)},
}
HIERARCHY_T = HIERARCHY | {'fashion_mnist': {'patch': 4, 'width': 48, 'depths': (2, 2), 'heads': (1, 2)}}


def variant(letters, name, small, *, peak, drop_path, weight_decay=0.05):
    """The four presets of a variant, their names begun by its letters."""
    backbone = base.backbone(name, scan=False)
    paper = backbone | {'drop_path': drop_path, 'dtype': 'bfloat16'}
    tiny = backbone | small['smoke'] | {'drop_path': 0.1}

    def recipe(network, ema, **schedule):
        optimizer = base.adamw(weight_decay=weight_decay, clip_norm=5.0, **schedule)
        return base.imagenet(network, optimizer, ema=ema)

    return {
        f'{letters}imagenet': recipe(paper, ema=0.9999, peak=peak, start=1e-6, end=1e-5, warmup_epochs=20.0),
        f'{letters}digits': base.digits(backbone | small['digits']),
        f'{letters}fashion_mnist': base.fashion_mnist(backbone | small['fashion_mnist']),
        f'{letters}smoke': base.smoke(recipe(tiny, ema=0.9, peak=1e-3, warmup_epochs=0.1)),
    }


get_config = base.presets(
    **variant('', 'vig_small', FLAT, peak=1e-3, drop_path=0.2, weight_decay=0.1),
    **variant('t_', 'vig_tiny', FLAT, peak=2e-3, drop_path=0.0),
    **variant('b_', 'vig_base', FLAT, peak=2e-3, drop_path=0.5),
    **variant('h_t_', 'vig_h_tiny', HIERARCHY_T, peak=1.6e-3, drop_path=0.2),
    **variant('h_s_', 'vig_h_small', HIERARCHY, peak=1e-3, drop_path=0.3),
    **variant('h_b_', 'vig_h_base', HIERARCHY, peak=1e-3, drop_path=0.6),
)

"""What configs share: the presets of data and recipe that a network is put into.

A config file shows a paper's recipe and the sizes of its small networks; `presets` makes its ``get_config(preset)``.
Networks have the paper's own recipe, ``imagenet`` or ``cifar10``, and the same architecture, narrower and shallower, on
small real data; methods have small data only, under a network of ours:

- ``imagenet``: the published recipe on ImageNet-1k, which the user has prepared with TFDS.
- ``digits``: 1,797 images of 8 x 8, embedded in scikit-learn; minutes on two CPU cores.
- ``fashion_mnist``: 70,000 images of 28 x 28; under an hour on two CPU cores.
- ``smoke``: the published recipe, every augmentation included, for a few steps on a few tiny JPEGs made on the spot;
  proves that a config runs, nothing else.
"""

import copy
import difflib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict, config_dict

Node = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_SIZE = 1_281_167
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
HALF = (0.5, 0.5, 0.5)  # as mean and deviation: pixels from -1 to 1

# The networks that methods are put on; `patch` and `depth` of the ViT depend on the data.
RESNET = {
    'fn': 'modelzoo:backbone',
    'variant': 'resnet50',
    'drop_path': 0.0,
    'stem_stride': 1,
    'stem_width': 16,
    'depths': (1, 1, 1),
    'widths': (32, 64, 128),
}
VIT = {
    'fn': 'modelzoo.vision.vit:vit',
    'variant': 'vit_small_patch16_224',
    'plain': True,
    'drop_path': 0.0,
    'width': 64,
    'heads': 2,
}


def presets(**configs: Node) -> Callable[..., ConfigDict]:
    """Makes the ``get_config(preset=None)`` of a config file.

    Args:
        **configs: what `run` returns, by the preset's name; the first one is the default.
    """

    def get_config(preset: str | None = None) -> ConfigDict:
        """Returns a config of its own for each call.

        Raises:
            ValueError: there is no such preset; the nearest one is named.
        """
        name = preset or next(iter(configs))
        if name not in configs:
            close = difflib.get_close_matches(name, configs, n=1)
            hint = f'did you mean {close[0]!r}? ' if close else ''
            raise ValueError(f'there is no preset {name!r}; {hint}The presets are {", ".join(configs)}.')
        # ConfigDict copies neither lists nor placeholders: an override of one config would reach the next.
        return ConfigDict(copy.deepcopy(configs[name]), convert_dict=True)

    return get_config


def unset(kind: type) -> Any:
    """None that an override may replace by a value of this type."""
    return config_dict.placeholder(kind)


def backbone(variant: str, *, fn: str = 'modelzoo:backbone', **fields: Any) -> Node:
    """A published backbone with other `fields`; drop path, dtype and remat are named for the command line to set."""
    return {'fn': fn, 'variant': variant, 'drop_path': 0.0, 'dtype': 'float32', 'remat': False} | fields


def linear(num_classes: int | None = None) -> Node:
    """A linear head, by default with as many logits as the data set has classes."""
    return {'fn': 'modelzoo.heads:Linear', 'num_classes': num_classes}


def supervised(backbone: Node, *, ema: float | None, ema_warmup: bool = False, label_smoothing: float = 0.0) -> Node:
    """Classification, evaluated with averaged weights unless `ema` is None."""
    task = {
        'fn': 'methods.supervised:Supervised',
        'backbone': backbone,
        'head': linear(),
        'label_smoothing': label_smoothing,
    }
    if ema is None:
        return task
    return {'fn': 'methods.ema:Ema', 'inner': task, 'decay': ema, 'warmup': ema_warmup}


def adamw(
    *,
    peak: float,
    warmup_epochs: float,
    start: float = 0.0,
    end: float = 0.0,
    weight_decay: float = 0.05,
    clip_norm: float | None = None,
    b2: float = 0.999,
    layer_decay: float = 1.0,
    decay_rules: tuple = (),
    rate_rules: tuple = (),
) -> Node:
    """AdamW under a warm-up and a cosine."""
    schedule = {
        'partial': 'methods.optim.schedules:warmup_cosine',
        'peak': float(peak),
        'warmup_epochs': float(warmup_epochs),
        'start': float(start),
        'end': float(end),
    }
    return {
        'partial': 'methods.optim.adamw:adamw',
        'schedule': schedule,
        'weight_decay': weight_decay,
        'decay_rules': decay_rules,
        'rate_rules': rate_rules,
        'clip_norm': unset(float) if clip_norm is None else clip_norm,
        'layer_decay': layer_decay,
        'b1': 0.9,
        'b2': b2,
        'eps': 1e-8,
    }


def sgd(
    schedule: Node,
    *,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
    decay_rules: tuple = (),
    rate_rules: tuple = (),
    adaptive_clip: float | None = None,
) -> Node:
    """SGD with a momentum of 0.9."""
    return {
        'partial': 'methods.optim.sgd:sgd',
        'schedule': schedule,
        'momentum': 0.9,
        'nesterov': nesterov,
        'weight_decay': weight_decay,
        'decay_rules': decay_rules,
        'rate_rules': rate_rules,
        'clip_norm': unset(float),
        'adaptive_clip': unset(float) if adaptive_clip is None else adaptive_clip,
        'layer_decay': 1.0,
    }


def staircase(peak: float, boundaries: tuple[float, ...], *, factor: float = 0.1, warmup_epochs: float = 0.0) -> Node:
    """A rate that falls by a factor at given epochs."""
    return {
        'partial': 'methods.optim.sgd:staircase',
        'peak': float(peak),
        'boundaries': boundaries,
        'factor': factor,
        'warmup_epochs': float(warmup_epochs),
        'start': 0.0,
    }


def cosine(peak: float, *, warmup_epochs: float) -> Node:
    """A warm-up from 0 and a cosine back to it."""
    return {
        'partial': 'methods.optim.schedules:warmup_cosine',
        'peak': float(peak),
        'warmup_epochs': float(warmup_epochs),
        'start': 0.0,
        'end': 0.0,
    }


def apart(optimizer: Node, paths: str, rate: float) -> Node:
    """`optimizer` without decay and with a fraction `rate` of its rate for the parameters whose paths match."""
    return optimizer | {'decay_rules': ((paths, 0.0),), 'rate_rules': ((paths, rate),)}


def mesh() -> Node:
    """All devices along ``data``; override the other axes to use them."""
    axes = {'data': -1, 'fsdp': 1, 'sequence': 1, 'tensor': 1}
    return {'fn': 'runtime.mesh:MeshConfig', **axes, 'rules': (), 'fsdp_min_size': 2**14}


def kernels() -> Node:
    """Every op as its platform chooses; ``--config.kernels.gla=pallas_gpu`` names an implementation."""
    ops = (
        'gla',
        'bidirectional_gla',
        'selective_scan',
        'linear_scan',
        'long_conv',
        'long_conv2d',
        'global_filter',
        'depthwise_conv',
        'inception_conv',
        'conv2d',
        'fused_block',
        'causal_conv1d',
        'attention',
    )
    return {op: unset(str) for op in ops}


def run(task: Node, data: Node, optimizer: Node, **rest: Any) -> Node:
    """The top level of a config: runtime/plan.py:Run, key for key."""
    common = {
        'seed': 0,
        'epochs': unset(float),
        'steps': unset(int),
        'accumulate': 1,
        'log_every': 50,
        'eval_every': unset(int),
        'save_every': unset(int),
        'keep': 2,
        'keep_every': unset(int),
        'patience': unset(int),
        'eval_batch_size': unset(int),
        'pictures': 8,
        'mesh': mesh(),
        'matmul_precision': 'default',
        'kernels': kernels(),
    }
    return {'task': task, 'data': data, 'optimizer': optimizer} | common | rest


def normalize(mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Node:
    return {'fn': 'methods.augment:Normalize', 'mean': mean, 'std': std}


def mixup(*, alpha: float) -> Node:
    return {
        'fn': 'methods.augment:Mix',
        'num_classes': None,
        'mixup_alpha': alpha,
        'cutmix_alpha': 0.0,
        'label_smoothing': 0.0,
    }


def timm_transforms(*, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0) -> list[Node]:
    """The recipe of DeiT and Swin, which timm made common: RandAugment m9 n2, mixup or cutmix, random erasing."""
    return [
        {
            'fn': 'methods.randaugment:RandAugment',
            'magnitude': 9.0,
            'magnitude_std': 0.5,
            'layers': 2,
            'probability': 0.5,
            'contrast': 'pil',
        },
        normalize(),
        {'fn': 'methods.augment:RandomErasing', 'probability': 0.25},
        {
            'fn': 'methods.augment:Mix',
            'num_classes': None,
            'mixup_alpha': mixup_alpha,
            'cutmix_alpha': cutmix_alpha,
            'switch_probability': 0.5,
            'label_smoothing': 0.1,
        },
    ]


def big_vision_augmentation(*others: Node) -> Node:
    """The transforms, to train and to evaluate, that big_vision has for a plain ViT; `others` follow in training."""
    randaugment = {
        'fn': 'methods.randaugment:RandAugment',
        'magnitude': 10.0,
        'magnitude_std': 0.0,
        'layers': 2,
        'probability': 1.0,
        'fill': (128, 128, 128),
        'interpolation': 'bilinear',
        'contrast': 'published',
    }
    scale = normalize(HALF, HALF)
    return {'train_transforms': [randaugment, scale, *others], 'eval_transforms': [scale]}


def imagenet_data(image_size: int = 224, eval_fraction: float = 0.875) -> Node:
    """ImageNet-1k: random resized crops and flips for training, center crops for evaluation."""
    return {
        'fn': 'input_pipeline:Images',
        'dataset': 'imagenet2012',
        'data_dir': unset(str),
        'train_split': 'train',
        'eval_split': 'validation',
        'image_size': image_size,
        'train_crop': {'fn': 'data.images:RandomResizedCrop', 'flip': True, 'interpolation': 'bicubic'},
        'eval_crop': {'fn': 'data.images:CenterCrop', 'fraction': eval_fraction, 'interpolation': 'bicubic'},
    }


def imagenet(
    backbone: Node,
    optimizer: Node,
    *,
    epochs: float = 300.0,
    batch_size: int = 1024,
    image_size: int = 224,
    eval_fraction: float = 0.875,
    ema: float | None = 0.9999,
) -> Node:
    """The recipe with which most backbones since DeiT are published."""
    return run(
        supervised(backbone, ema=ema),
        imagenet_data(image_size, eval_fraction),
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        train_transforms=timm_transforms(),
        eval_transforms=[normalize()],
    )


def cifar10(backbone: Node, optimizer: Node, *, epochs: float, batch_size: int, padding: int | None = None) -> Node:
    """CIFAR-10 from TFDS, evaluated with the weights themselves.

    Args:
        padding: images are padded by so many pixels, cropped and flipped; None leaves them as they are.
    """
    data = {
        'fn': 'input_pipeline:Images',
        'dataset': 'cifar10',
        'data_dir': unset(str),
        'train_split': 'train',
        'eval_split': 'test',
        'image_size': unset(int),
    }
    if padding is not None:
        data['train_crop'] = {'fn': 'data.images:PadCrop', 'padding': padding, 'flip': True}
    transforms = [normalize(CIFAR_MEAN, CIFAR_STD)]
    return run(
        supervised(backbone, ema=None),
        data,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        train_transforms=transforms,
        eval_transforms=transforms,
    )


def smoke(config: Node) -> Node:
    """`config` for 12 steps on a few JPEGs made on the spot, of 32 x 32."""
    shrunk = {
        'data': imagenet_data(32) | {'dataset': 'fake_imagenet'},
        'epochs': unset(float),
        'steps': 12,
        'batch_size': 8,
        'log_every': 4,
        'eval_every': 6,
        'save_every': 4,
    }
    return config | shrunk


def small(
    dataset: str,
    backbone: Node,
    *,
    epochs: float,
    batch_size: int,
    peak: float,
    padding: int,
    flip: bool,
    mean: float,
    std: float,
    warmup_epochs: float = 5,
    weight_decay: float = 0.05,
    ema: float | None = 0.999,
) -> Node:
    """Gray images of ten classes: shifted crops, label smoothing, AdamW."""
    data = {
        'fn': 'input_pipeline:Images',
        'dataset': dataset,
        'data_dir': unset(str),
        'train_split': 'train',
        'eval_split': 'test',
        'image_size': unset(int),
        'train_crop': {'fn': 'data.images:PadCrop', 'padding': padding, 'flip': flip},
    }
    optimizer = adamw(peak=peak, warmup_epochs=warmup_epochs, end=peak / 100, weight_decay=weight_decay, clip_norm=1.0)
    transforms = [normalize((mean,), (std,))]
    return run(
        supervised(backbone, ema=ema, ema_warmup=True, label_smoothing=0.1),
        data,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        train_transforms=transforms,
        eval_transforms=transforms,
    )


def digits(backbone: Node, *, epochs: float = 30.0, peak: float = 3e-3, ema: float | None = 0.999) -> Node:
    """1,438 images to train, 359 to test; a pixel's mean and deviation over the training images."""
    return small(
        'digits',
        backbone,
        epochs=epochs,
        batch_size=128,
        peak=peak,
        padding=1,
        flip=False,
        mean=0.305,
        std=0.376,
        ema=ema,
    )


def fashion_mnist(backbone: Node, *, epochs: float = 15.0, peak: float = 3e-3, ema: float | None = 0.999) -> Node:
    """60,000 images to train, 10,000 to test."""
    return small(
        'fashion_mnist',
        backbone,
        epochs=epochs,
        batch_size=128,
        peak=peak,
        padding=1,
        flip=True,
        mean=0.2860,
        std=0.3530,
        warmup_epochs=1,
        ema=ema,
    )

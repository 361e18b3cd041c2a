"""A published network with its weights, adapted to one's own images.

    python train.py --config configs/finetune.py --workdir runs/pets --config.data.dataset=./pets \
        --config.task.network.name=convnext_tiny --config.task.network.weights=convnext_tiny.safetensors
    python train.py --config configs/finetune.py:probe --workdir runs/pets_probe --config.data.dataset=./pets

Presets: `full` trains everything, early layers more slowly (`layer_decay`); `probe` trains a new head alone, on
features that stay as they are; `partly` holds what `--config.task.pattern` matches. The number of classes is the data
set's: where the weights have another one the head starts anew. `weights` is a file, a folder or a name on the Hugging
Face hub (modelzoo/README.md). Images are normalized by ImageNet's mean and deviation; what the weights want is on the
same page, and `--config.train_transforms[0].mean`, `.std` and those of `eval_transforms` set it.

The recipe is that of BEiT's and MAE's fine-tuning, at short lengths: AdamW, a layer-wise decay of the rate (Clark et
al., 2020, https://arxiv.org/abs/2003.10555), drop path and label smoothing of 0.1. The probe has AdamW without decay.
"""

from longview.configs import base

NETWORK = {
    'fn': 'modelzoo:create_model',
    'name': 'vit_small_patch16_224',
    'num_classes': None,
    'weights': 'vit_small_patch16_224.safetensors',
    'image_size': 224,
    'drop_path': 0.1,
}
DATA = base.imagenet_data() | {'dataset': './images', 'eval_split': 'val'}


def run(task, optimizer, **rest):
    """A short run on labelled images."""
    return base.run(
        task,
        DATA,
        optimizer,
        epochs=20.0,
        batch_size=128,
        train_transforms=[base.normalize()],
        eval_transforms=[base.normalize()],
        **rest,
    )


def supervised(label_smoothing, **fields):
    """Classification by a whole network."""
    return {
        'fn': 'methods.supervised:Supervised',
        'network': NETWORK | fields,
        'label_smoothing': label_smoothing,
    }


def held(task, pattern):
    """`task` without what the pattern matches."""
    return {'fn': 'methods.freeze:Freeze', 'inner': task, 'pattern': pattern}


_FULL = base.adamw(peak=5e-4, warmup_epochs=2.0, end=1e-6, clip_norm=1.0, layer_decay=0.75)
_PROBE = base.adamw(peak=1e-3, warmup_epochs=0.0, weight_decay=0.0)

get_config = base.presets(
    full=run(supervised(0.1), _FULL),
    probe=run(held(supervised(0.0, drop_path=0.0), 'backbone/.*'), _PROBE),
    partly=run(held(supervised(0.1), 'backbone/(stem|block0[0-5])/.*'), _FULL),
)

"""A published network with its weights, adapted to one's own images.

    python train.py --config configs/finetune.py --workdir runs/pets --config.data.dataset=./pets \
        --config.task.network.name=convnext_tiny
    python train.py --config configs/finetune.py:probe --workdir runs/pets_probe --config.data.dataset=./pets \
        --config.task.inner.network.weights=vit_small.safetensors

Presets: `full` trains everything, early layers more slowly (`layer_decay`); `probe` trains a new head alone, on
features that stay as they are; `partly` holds what `--config.task.pattern` matches. The number of classes is the data
set's: where the weights have another one the head starts anew. `weights` is `published`, which are fetched, a file, a
folder or a name on the Hugging Face hub (modelzoo/README.md). Images are cropped and normalized as the published
weights of the variant want it.

The recipe is that of BEiT's and MAE's fine-tuning, at short lengths: AdamW, a layer-wise decay of the rate (Clark et
al., 2020, https://arxiv.org/abs/2003.10555), drop path and label smoothing of 0.1. The probe has AdamW without decay.
"""

from ml_collections import config_dict

from longview.configs import base

# One override of the network's name reaches what its images have to look like.
NAME = config_dict.FieldReference('vit_small_patch16_224')
NETWORK = {
    'fn': 'modelzoo:create_model',
    'name': NAME,
    'num_classes': None,
    'weights': 'published',
    'image_size': 224,
    'drop_path': 0.1,
}


def wanted(field):
    """What the published weights want of images."""
    return {'fn': 'modelzoo.published:preprocessing', 'variant': NAME, 'field': field}


NORMALIZE = base.normalize() | {'mean': wanted('mean'), 'std': wanted('std')}
CROP = {'fn': 'data.images:CenterCrop', 'fraction': wanted('fraction'), 'interpolation': wanted('interpolation')}
DATA = base.imagenet_data() | {'dataset': './images', 'eval_split': 'val', 'eval_crop': CROP}


def run(task, optimizer, **rest):
    """A short run on labelled images."""
    return base.run(
        task,
        DATA,
        optimizer,
        epochs=20.0,
        batch_size=128,
        train_transforms=[NORMALIZE],
        eval_transforms=[NORMALIZE],
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

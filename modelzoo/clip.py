"""CLIP whole: an image tower and a text tower, their matrices into one space, and published weights of all of it.

Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision",
https://arxiv.org/abs/2103.00020, table 20. Reference: https://github.com/openai/CLIP (MIT), clip/model.py, and
https://github.com/huggingface/transformers (Apache-2.0), models/clip.

    model = clip('clip_vit_base_patch32')
    image, text = (pixels,), (words, valid)          # pixels normalized; texts of at most 77 words
    variables = load(model, jax.eval_shape(model.init, key, image, text), 'openai/clip-vit-base-patch32')
    logits = model.apply(variables, image, text, method='logits')

The image towers are those of vision/vit.py, the text tower is that of text/transformer.py: 49,408 words, 77 places, and
the last word of a text, which ends it, is pooled. In the published code a text's end is the largest of its numbers and
padding is 0; here ``valid`` is False behind the end, and since no word sees those after it the answers are the same.
Words come from CLIP's tokenizer, which is not built here.

Training and evaluation on pairs: methods/contrast/clip.py. The networks there start at random, or from one tower each.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longview.modelzoo import weight_files, weights
from longview.modelzoo.heads.towers import Tower, Towers
from longview.modelzoo.layers.frame.variants import variant as _variant
from longview.modelzoo.text.transformer import CLIP, CLIP_TEST, Transformer
from longview.modelzoo.vision import vit
from longview.modelzoo.weight_names import Names

_FIRST_SCALE = 1 / 0.07


def _towers(image: vit.ViT, text: Transformer, width: int) -> Towers:
    return Towers(Tower(image, width), Tower(text, width), _FIRST_SCALE)


_BASE, _LARGE = CLIP(width=512, heads=8), CLIP(width=768, heads=12)
_TEST = vit.VARIANTS['vit_base_patch32_clip_quickgelu_224'].clone(width=16, depth=1, heads=2, patch=4, image_size=8)
VARIANTS = {
    'clip_vit_base_patch32': _towers(vit.VARIANTS['vit_base_patch32_clip_quickgelu_224'], _BASE, 512),
    'clip_vit_base_patch16': _towers(vit.VARIANTS['vit_base_patch16_clip_quickgelu_224'], _BASE, 512),
    'clip_vit_large_patch14': _towers(vit.VARIANTS['vit_large_patch14_clip_quickgelu_224'], _LARGE, 768),
    'clip_vit_large_patch14_336': _towers(vit.VARIANTS['vit_large_patch14_clip_quickgelu_336'], _LARGE, 768),
    'clip_test': _towers(_TEST, CLIP_TEST, 8),
}


def clip(variant: str = 'clip_vit_base_patch32', **fields: Any) -> Towers:
    """Returns both towers of a variant.

    Args:
        variant: one of `VARIANTS`.
        **fields: of `Towers`: ``image`` and ``text`` are `Tower`, ``scale`` is the first factor of the cosines.

    Raises:
        ValueError: there is no such variant or field.
    """
    return _variant(VARIANTS, variant, fields)


def _inside(tower: str, pairs: Names) -> tuple[tuple[str, str], ...]:
    """Returns pairs whose path begins with ``backbone/`` or is empty, inside of a tower."""
    return tuple((there, f'{tower}/{here}' if here else '') for there, here in pairs)


_NORM = (('weight', 'scale'), ('bias', 'bias'))
OPENAI_NAMES: Names = (
    *_inside('image', vit.OPENAI_CLIP),
    ('visual.proj', 'image/projection/kernel'),
    ('token_embedding.weight', 'text/backbone/stem/table'),
    ('positional_embedding', 'text/backbone/stem/pos_embed'),
    *vit.openai_blocks('', 'text/backbone/'),
    *((f'ln_final.{a}', f'text/backbone/norm/{b}') for a, b in _NORM),
    ('text_projection', 'text/projection/kernel'),
    ('logit_scale', 'log_scale'),
    *((name, '') for name in ('input_resolution', 'context_length', 'vocab_size')),
)
TRANSFORMERS_NAMES: Names = (
    *_inside('image', vit.TRANSFORMERS_CLIP),
    ('visual_projection.weight', 'image/projection/kernel'),
    ('text_model.embeddings.token_embedding.weight', 'text/backbone/stem/table'),
    ('text_model.embeddings.position_embedding.weight', 'text/backbone/stem/pos_embed'),
    *vit.transformers_blocks('text_model.', 'text/backbone/'),
    *((f'text_model.final_layer_norm.{a}', f'text/backbone/norm/{b}') for a, b in _NORM),
    ('text_projection.weight', 'text/projection/kernel'),
    ('logit_scale', 'log_scale'),
    ('text_model.embeddings.position_ids', ''),
)
# OpenAI multiplies by these from the right, and so saves them as (in, out); kernels of its layers are (out, in).
_TURNED = ('visual.proj', 'text_projection')


def load(
    model: Towers, variables: Mapping[str, Any], source: str | os.PathLike | Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns published weights in place of `variables`; the position table of the image tower is resized.

    Args:
        model: both towers.
        variables: from ``model.init``, or only their shapes.
        source: a state dict under the names of OpenAI or of transformers: a file, a folder or an id on the hub, see
            `weight_files.read`, or arrays by published name. OpenAI's own files are programs (TorchScript); what
            ``clip.load(name)[0].state_dict()`` saves is read.

    Raises:
        ValueError: names missing, left over, or of another shape, all listed.
    """
    arrays = source if isinstance(source, Mapping) else weight_files.read(source)
    is_openai = any(name.endswith('visual.proj') for name in arrays)
    names = OPENAI_NAMES if is_openai else TRANSFORMERS_NAMES
    resize = functools.partial(_resize, model)
    return {'params': weights.load_published(names, variables['params'], _turned(arrays), resize=resize)}


def published(variables: Mapping[str, Any], names: Names = TRANSFORMERS_NAMES) -> dict[str, np.ndarray]:
    """Returns arrays by published name, in PyTorch's layout: `OPENAI_NAMES` or `TRANSFORMERS_NAMES`."""
    return _turned(weights.to_published(names, variables['params']))


def save(variables: Mapping[str, Any], path: str | os.PathLike, names: Names = TRANSFORMERS_NAMES) -> None:
    """Writes variables under their published names as a .safetensors file."""
    weight_files.write(path, published(variables, names))


def _turned(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.T if name.endswith(_TURNED) else array for name, array in arrays.items()}


def _resize(model: Towers, path: str, table: np.ndarray) -> np.ndarray:
    """Returns the image tower's table for its image size; that of the places of a text has one size."""
    if not path.startswith('image/'):
        return table
    return vit.RESIZE['ViT'](model.image.backbone, path, table.reshape(1, -1, table.shape[-1]))

# %% [markdown]
# # Write your own block
#
# We write a layer that mixes the tokens of an image, a gated convolution, and put it into ViT-S in the place of
# attention, without a change to the network's file. Then we train both on hand-written digits and compare them. It
# takes about a minute on two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/own_block.ipynb)

# %%
# On Colab this installs Longview; elsewhere it does nothing.
import pathlib
import shutil
import subprocess
import sys

if 'google.colab' in sys.modules and not pathlib.Path('longview').exists():
    repository = 'https://github.com/longview-jax/longview'
    subprocess.run(['git', 'clone', '-q', '--depth=1', repository, 'longview'], check=True)
    jax_for = 'jax[cuda12]' if shutil.which('nvidia-smi') else 'jax'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', jax_for, './longview[plots,hub]'], check=True)

# %% [markdown]
# ## A mixer is a Flax module
#
# The mixer of a ViT block gets tokens of the shape (batch, tokens, width) and returns the same shape. Ours arranges the
# tokens as the image that they came from, convolves each channel over its neighbours, and multiplies the result by a
# gate. The network says how many heads attention would have, and in which type to compute.

# %%
import math

import jax
import jax.numpy as jnp
from flax import linen as nn


# %%
class GatedConv(nn.Module):
    heads: int = 1  # of attention; a convolution has none
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        batch, tokens, width = x.shape
        side = math.isqrt(tokens)
        gate, value = jnp.split(nn.Dense(2 * width, dtype=self.dtype, name='gate_value')(x), 2, axis=-1)
        image = value.reshape(batch, side, side, width)
        image = nn.Conv(width, (3, 3), feature_group_count=width, dtype=self.dtype, name='conv')(image)
        return nn.Dense(width, dtype=self.dtype, name='out')(nn.silu(gate) * image.reshape(x.shape))


# %% [markdown]
# ## Put it into a published network
#
# A field that holds a part of a network is a slot, and `mixer` is one. Our block wants a square of tokens, so this ViT
# has no class token and pools the mean. Nothing is computed here: `eval_shape` only follows the shapes.

# %%
import longview
from longview.counting import multiply_adds

plain = {'prefix': (), 'pool': 'mean'}
models = {
    'attention': longview.create_model('vit_small_patch16_224', **plain),
    'gated convolution': longview.create_model('vit_small_patch16_224', mixer=GatedConv, **plain),
}
images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
for name, model in models.items():
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    work = multiply_adds(model.apply, variables, images)
    print(f'{name}: {parameters / 1e6:.2f} M parameters, {work / 1e9:.2f} G multiply-adds')

# %% [markdown]
# Other networks have other slots. ConvNeXt takes its feed-forward layer from `mlp`; here it becomes a gated one.


# %%
class GatedMlp(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate, value = jnp.split(nn.Dense(16 * x.shape[-1] // 3, dtype=self.dtype)(x), 2, axis=-1)
        return nn.Dense(x.shape[-1], dtype=self.dtype)(nn.gelu(gate) * value)


for fields in ({}, {'mlp': GatedMlp}):
    model = longview.create_model('convnext_tiny', **fields)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    print(fields, f'{sum(leaf.size for leaf in jax.tree.leaves(variables)) / 1e6:.2f} M parameters')

# %% [markdown]
# ## Train both
#
# A config names a part by its import path. A class of a notebook is in the module `__main__`; a run that others are to
# open keeps its block in a file, and is then given as `my_block:GatedConv`.

# %%
from longview import train
from longview.configs import vit_s16


def config_of(mixer):
    config = vit_s16.get_config('digits')
    config.epochs = 16.0
    config.log_every = config.eval_every = 20
    backbone = config.task.inner.backbone
    backbone.depth = 3
    if mixer is not None:
        backbone.mixer = {'partial': mixer}
    return config


# %% [markdown]
# Data, recipe, order of the images and augmentation are the same for both: they follow from the seed.

# %%
runs = {'attention': None, 'gated convolution': '__main__:GatedConv'}
for name, mixer in runs.items():
    last = train.train(config_of(mixer), f'runs/{name.replace(" ", "_")}')
    print(f'{name}, accuracy of the trained weights: {last["eval/raw_accuracy"]:.3f}')

# %% [markdown]
# ## Learning curves

# %%
import pathlib

import matplotlib.pyplot as plt

from longview.runtime import rows

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
for name in runs:
    measured = rows.read(pathlib.Path('runs', name.replace(' ', '_'), 'metrics.jsonl'))
    for axis, key in zip(axes, ['train/loss', 'eval/raw_accuracy']):
        axis.plot(*zip(*[(row['step'], row[key]) for row in measured if key in row]), label=name)
        axis.set(xlabel='step', ylabel=key)
axes[0].legend()
plt.show()

# %% [markdown]
# On so few images a layer that knows about neighbours learns faster than attention, which has to find them first. This
# says little about a million images.
#
# ## What else works now
#
# Our layer is now a part like any other: `backbone.scan=True` compiles one block for all, `backbone.remat=True`
# recomputes activations, and every method of Longview trains it. Let us see that `scan` changes no number.

# %%
small = {'width': 32, 'heads': 2, 'depth': 3, 'patch': 2, 'image_size': 8, 'mixer': GatedConv, **plain}
one_by_one = longview.create_model('vit_small_patch16_224', 10, **small)
scanned = longview.create_model('vit_small_patch16_224', 10, scan=True, **small)
digit = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
variables = jax.jit(one_by_one.init)(jax.random.key(0), digit)
one, other = (jax.jit(model.apply)(variables, digit)['logits'] for model in (one_by_one, scanned))
print(f'largest difference: {jnp.abs(one - other).max():.1e}')

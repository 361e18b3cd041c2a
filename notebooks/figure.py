# %% [markdown]
# # Reproduce one paper's figure
#
# Figure 1 of [Brock, De and Smith, 2021](https://arxiv.org/abs/2101.08692) shows how a signal travels through 600
# layers of a residual network before any training, with batch normalization in two places. It needs no data and no
# accelerator, and its numbers follow from a line of algebra. We build that network out of Longview's parts, draw the
# figure, and add the paper's answer: the same signal without normalization. It takes about a minute on two CPU cores,
# and 2 GB of memory.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/figure.ipynb)

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
# ## What the figure should show
#
# A block adds its branch to what it got, `x + f(x)`. Three things are measured after every block, each over images and
# pixels, and then averaged over channels: the squared mean, the variance, and the variance of the branch alone.
#
# Let a standard normal number go through ReLU: its mean is 1 / sqrt(2 pi), its mean square 1/2. He's random weights
# double the mean square to 1. Of that, 1/pi = 0.32 is the squared mean of a channel and 1 - 1/pi = 0.68 its variance.
#
# - **BN-ReLU-Conv**, the common order: the variance grows by 0.68 a block and the squared mean by 0.32.
# - **ReLU-BN-Conv**: normalization takes the mean away, so the variance grows by 1 a block and the mean stays 0.
#
# The first block of each of the four stages has a convolution in place of the identity and starts anew. So after a
# stage of 50 blocks the variance should be 51 times 0.68 or 51 times 1.

# %%
import math

blocks = 50
branch = {'BN-ReLU-Conv': 1 - 1 / math.pi, 'ReLU-BN-Conv': 1.0}
for name, variance in branch.items():
    print(f'{name}: a branch of {variance:.2f}, after a stage {(blocks + 1) * variance:.1f}')

# %% [markdown]
# ## The block
#
# It is the bottleneck of a pre-activation ResNet. A convolution and an activation come from outside, so that one block
# serves all networks of the figure. Without normalization a block divides by `sqrt(variance)`, the standard deviation
# that its input should have by this algebra; that is the paper's proposal. The paper has images of 512 pixels, of which
# the border is a small part. Ours are smaller, and go around instead of having zeros outside.

# %%
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def around(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'wrap')


def normalized(x):
    """Batch normalization before its first step: scale 1, bias 0."""
    x = x - jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=(0, 1, 2), keepdims=True) + 1e-5)


# %%
class Block(nn.Module):
    features: int
    stride: int
    variance: float
    alpha: float
    conv: Callable
    activation: Callable
    dtype: Any
    divides: bool = True

    @nn.compact
    def __call__(self, x, mask, *, train=False):
        y = self.activation(x) * (self.variance**-0.5 if self.divides else 1.0)
        shortcut = x if x.shape[-1] == self.features else self.conv(self.features, 1, self.stride, name='shortcut')(y)
        return shortcut + self.alpha * bottleneck(self, y)


# %%
def bottleneck(block, y):
    """The branch, whose last layer is called conv3."""
    width = block.features // 4
    y = block.conv(width, 1, name='conv1')(y)
    y = block.conv(width, 3, block.stride, name='conv2')(around(block.activation(y)))
    return block.conv(block.features, 1, name='conv3')(block.activation(y))


# %% [markdown]
# ## Four networks
#
# `NFNet` is Longview's family of networks without normalization. Its block, stem, convolution and activation are
# fields, and a field takes anything of that shape: that is how parts are exchanged everywhere in the zoo. We give it 4
# stages of 50 blocks with 3 layers each, half as wide as a ResNet-50.

# %%
from functools import partial

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.norms.weight_standardization import ScaledConv
from longview.modelzoo.vision.nfnet import RELU_GAMMA, NFNet


def gaussian(gain):
    """Random weights of variance gain / fan-in: 2 is He's, for inputs that come from a ReLU."""
    return partial(Conv, use_bias=False, kernel_init=jax.nn.initializers.variance_scaling(gain, 'fan_in', 'normal'))


def stem(features, stride, conv, activation, dtype, name):
    """An image has not been through a ReLU, so its gain is 1."""
    return nn.Sequential([around, gaussian(1.0)(features, 3)], name=name)


# %%
widths = (128, 256, 512, 1024)
free = NFNet((blocks,) * 4, widths, Block, stem, stem_width=32, alpha=1.0)
batch = free.clone(block=partial(Block, divides=False))
standardized = partial(ScaledConv, padding=0, gamma=RELU_GAMMA, epsilon=1e-12)
networks = {
    'BN-ReLU-Conv': batch.clone(activation=lambda x: nn.relu(normalized(x)), conv=gaussian(2.0)),
    'ReLU-BN-Conv': batch.clone(activation=lambda x: normalized(nn.relu(x)), conv=gaussian(1.0)),
    'no normalization, He': free.clone(conv=gaussian(2.0)),
    'no normalization, scaled weights': free.clone(conv=standardized),
}

# %% [markdown]
# ## Measuring
#
# `nn.intercept_methods` of Flax sees every call of every module, so nothing has to be built into the network. The input
# is noise, as in the paper.


# %%
def moments(x):
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jnp.mean(mean**2), jnp.mean(jnp.var(x, axis=(0, 1, 2)))


# %%
def propagation(network, images):
    """Returns squared mean, variance and the branch's variance after each block, (blocks, 3)."""
    rows = []

    def watch(function, args, kwargs, context):
        out = function(*args, **kwargs)
        if context.module.name == 'conv3':
            rows.append([moments(out)[1]])
        if isinstance(context.module, Block):
            rows[-1] = [*moments(out), *rows[-1]]
        return out

    with nn.intercept_methods(watch):
        network.init(jax.random.key(0), images)
    return jnp.array(rows)


# %%
images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
measured = {name: propagation(network, images) for name, network in networks.items()}

# %% [markdown]
# ## The figure
#
# Dots are the ends of stages, as in the paper; dotted lines are what the algebra says.

# %%
import matplotlib.pyplot as plt
import numpy as np

TITLES = ('squared channel mean', 'channel variance', 'variance of the branch')


# %%
def draw(names, expected):
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout='constrained')
    for column, axis in enumerate(axes):
        for name, color in names.items():
            values = np.asarray(measured[name][:, column])
            axis.plot(values, color=color, label=name)
            axis.plot(range(blocks - 1, len(values), blocks), values[blocks - 1 :: blocks], 'k.')
        for value in expected[column]:
            axis.axhline(value, color='0.6', linestyle=':', zorder=0)
        axis.set(title=TITLES[column], xlabel='block')
    axes[2].legend(fontsize='small', loc='center right')
    plt.show()


# %%
ends = [[(blocks + 1) / math.pi], [(blocks + 1) * value for value in branch.values()], list(branch.values())]
draw({'BN-ReLU-Conv': 'darkblue', 'ReLU-BN-Conv': 'red'}, ends)

# %% [markdown]
# Beside it, the numbers that can be read off the paper's figure.

# %%
PAPER = {'BN-ReLU-Conv': ('14 to 17', '35', '0.68'), 'ReLU-BN-Conv': ('0', '51', '1.00')}
for name, paper in PAPER.items():
    last = np.asarray(measured[name][blocks - 1 :: blocks]).mean(axis=0)
    mean_branch = float(measured[name][:, 2].mean())
    print(f'{name}, ends of stages: variance {last[1]:.2f} (paper {paper[1]}), squared mean {last[0]:.2f} ({paper[0]})')
    print(f'{name}, all blocks: branch {mean_branch:.3f} (paper {paper[2]})')

# %% [markdown]
# ## Without normalization
#
# Leave normalization out and divide by the standard deviation instead. With He's weights the mean square still grows as
# it should, but more and more of it is in the means of channels: every image gets the same signal, and what tells
# images apart dies out. Weights whose mean over the inputs is taken away (scaled weight standardization, the paper's
# answer) keep the means at 0, and the curves come back near those of ReLU-BN-Conv.

# %%
without = {'ReLU-BN-Conv': 'red', 'no normalization, He': 'green', 'no normalization, scaled weights': 'darkturquoise'}
draw(without, [[], [blocks + 1], [1.0]])

# %%
for name in list(without)[1:]:
    last = np.asarray(measured[name][-1])
    print(f'{name}, last block: share of the mean {last[0] / (last[0] + last[1]):.3f}, branch {last[2]:.2f}')

# %% [markdown]
# ## What agrees, and what differs
#
# The first figure agrees with the paper's figure 1 to what can be read off it: 35 and 51 at the ends of stages,
# branches of 0.68 and 1.00, no mean for ReLU-BN-Conv, and one of 14 to 17 for BN-ReLU-Conv. The second one shows what
# the paper's figure 2 is about; its curves we have not compared number by number.
#
# What differs from the paper:
#
# - Images of 32 pixels that go around, not of 512 with a border, and a stem without pooling. With zeros at the border
#   and nothing that normalizes, the signal of such small images fades.
# - Half the width of a ResNet-50. Curves without normalization are those of one random draw, and a wide network strays
#   less.
# - No epsilon in the weights. `ScaledConv` adds 1e-5 to a kernel's variance by default, as the published PyTorch code
#   does; in layers with thousands of inputs that takes some percent off each branch before training.
# - For ReLU-BN-Conv the weights have variance 1 / fan-in, since no ReLU comes between normalization and convolution.
#
# The trained networks of this family, with their published weights, are `nf_resnet50` and `dm_nfnet_f0`;
# [docs/papers.md](https://github.com/longview-jax/longview/blob/main/docs/papers.md) lists what else is exact.

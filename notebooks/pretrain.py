# %% [markdown]
# # Pre-train without labels and look at the features
#
# A small ResNet learns from digits without being told what any of them is: SimCLR asks it to recognize an image after
# it was cropped and brightened. Then we look at what it has learnt: a map of its features, nearest neighbours, and how
# well a linear classifier does on them with few labels. It takes about a minute and a half on two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/pretrain.ipynb)

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
# ## The method
#
# The config of [SimCLR](https://arxiv.org/abs/2002.05709) makes two views of every image, and the loss wants the two to
# be nearer to each other than to all other images of the batch. Labels are read for the evaluation only. We train a
# little longer than the preset does, and evaluate once, at the end.

# %%
from longview.configs import simclr

config = simclr.get_config('digits')
config.epochs = 60.0
config.log_every, config.eval_every = 15, 1000
print(config.task.inner)

# %% [markdown]
# Two views of the same digits, as the loss gets them: the first row is the image, the two below are its views.

# %%
import matplotlib.pyplot as plt
import numpy as np

from longview.engine import show
from longview.runtime.plan import read_run

batch = show.first_batch(read_run(config)[0])
figure, axes = plt.subplots(3, 10, figsize=(9, 3), layout='constrained')
for row, name in zip(axes, ['image', 'view0', 'view1']):
    for axis, image in zip(row, np.asarray(batch[name])):
        axis.imshow(image, cmap='gray')
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()

# %% [markdown]
# ## Training
#
# One call, as for any other method. Run the cell again after an interruption, and it goes on where it was.

# %%
from longview import train

last = train.train(config, 'runs/simclr')
print(f'vote of the 20 nearest neighbours: {last["eval/knn_accuracy"]:.4f}')

# %%
from longview.runtime import rows

measured = rows.read(pathlib.Path('runs/simclr/metrics.jsonl'))
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout='constrained')
for axis, name in zip(axes, ['loss', 'accuracy']):
    axis.plot(*zip(*[(row['step'], row[f'train/{name}']) for row in measured if f'train/{name}' in row]))
    axis.set(xlabel='step', ylabel=name, title='finding the other view')
plt.show()

# %% [markdown]
# ## Features
#
# `longview.load` opens a run, and `features` gives what its network makes of pictures; `pooled` is what a classifier
# would read. To compare, we take the same network with random weights. Its batch normalization has to see the images
# first, for else it does not know their mean and deviation.

# %%
import dataclasses

import jax
import jax.numpy as jnp

import longview
from longview.data.digits import arrays

after = longview.load('runs/simclr')
(images, labels), (test_images, test_labels) = arrays(test=False), arrays(test=True)
pixels = jnp.stack([after.preprocess(image) for image in images])
random = after.module.init(jax.random.key(0), pixels[:1])
look = jax.jit(lambda variables: after.module.apply(variables, pixels, train=True, mutable=['batch_stats'])[1])
for _ in range(50):
    random = {**random, **look(random)}
before = dataclasses.replace(after, variables=random)

# %%
found = {
    name: [network.features(list(split))['pooled'] for split in (images, test_images)]
    for name, network in {'before': before, 'after': after}.items()
}
found['pixels'] = [split.reshape(len(split), -1) / 255 for split in (images, test_images)]
print({name: features.shape for name, (features, _) in found.items()})

# %% [markdown]
# ## A map
#
# Features have many dimensions; the two along which they differ the most can be drawn. Each dot is a digit of the test
# split. Colours are the labels, which the network has never seen.


# %%
def plane(features, others):
    """Returns the two principal components of `others`, by those of `features`."""
    mean = features.mean(axis=0)
    directions = np.linalg.svd(features - mean, full_matrices=False)[2][:2]
    return (others - mean) @ directions.T


figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout='constrained')
for axis, name in zip(axes, ['before', 'after']):
    dots = axis.scatter(*plane(*found[name]).T, c=test_labels, cmap='tab10', s=12, vmin=-0.5, vmax=9.5)
    axis.set(title=f'{name} pre-training', xticks=[], yticks=[])
figure.colorbar(dots, ax=axes, ticks=range(10), label='digit')
plt.show()

# %% [markdown]
# ## Nearest neighbours
#
# For some test images, the training images whose features point the most in the same direction.


# %%
def nearest(features, others, count):
    """Returns the numbers of the nearest of `features` to each of `others`, by cosine, the nearest first."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.argsort(-unit(others) @ unit(features).T, axis=1)[:, :count]


def strip(pictures):
    """Returns pictures side by side, each in a frame."""
    return np.hstack([np.pad(picture[..., 0], 1, constant_values=128) for picture in pictures])


# %%
queries = [np.flatnonzero(test_labels == digit)[0] for digit in (2, 3, 5, 8, 9)]
panels = {name: images[nearest(*found[name], 6)[queries]] for name in ('before', 'after')}
panels = {'image': test_images[queries][:, None], **panels}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout='constrained', width_ratios=(1, 6, 6))
for axis, (title, rows_of_pictures) in zip(axes, panels.items()):
    axis.imshow(np.vstack([strip(pictures) for pictures in rows_of_pictures]), cmap='gray')
    axis.set_title(title)
    axis.axis('off')
plt.show()

# %%
for name in ('pixels', 'before', 'after'):
    same = labels[nearest(*found[name], 10)] == test_labels[:, None]
    print(f'neighbours of the same digit, {name}: {same.mean():.4f}')

# %% [markdown]
# Pre-training has brought images of the same digit together. Digits of 8 x 8 pixels that stand in the middle are an
# easy case, in which the pixels themselves are as good to compare by; with photographs they are not.

# %% [markdown]
# ## A linear probe
#
# How many labels does a linear classifier need on these features? We give it 1 to 100 of each digit, the same ones for
# all three, and test it on images that nobody has trained on.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def probe(name, per_class):
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:per_class] for digit in range(10)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    features, others = found[name]
    return classifier.fit(features[chosen], labels[chosen]).score(others, test_labels)


# %%
counts = [1, 2, 5, 10, 20, 50, 100]
plt.figure(figsize=(6, 3.6), layout='constrained')
for name in ('pixels', 'before', 'after'):
    scores = [probe(name, count) for count in counts]
    print(f'linear probe, 5 labels a digit, {name}: {scores[2]:.4f}')
    plt.semilogx(counts, scores, 'o-', label=name)
plt.xlabel('labels of each digit')
plt.ylabel('test accuracy')
plt.legend()
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - Other ways without labels have configs of the same form: `mae`, `rotnet`, `swav`.
# - `configs/few_labels.py` does what this notebook does in stages: SimCLR, then a probe and fine-tuning with 50 labels.
# - [docs/results.md](https://github.com/longview-jax/longview/blob/main/docs/results.md) has the figures of all, over
#   three seeds.

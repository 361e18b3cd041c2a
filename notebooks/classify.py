# %% [markdown]
# # Classify pictures with published weights
#
# We load a vision transformer with the weights that its authors published, ask it what is in two photographs, and look
# at which parts of a photograph are alike to it. It takes a minute on two CPU cores, most of it to download 88 MB.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/classify.ipynb)

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
# ## Choose a network
#
# `longview.list_models` finds networks by name. For many of them published weights are known: where they are, under
# which licence, and how pictures have to be prepared for them.

# %%
import longview
from longview.modelzoo import published

print(longview.list_models('vit_small*'))
row = published.table()['vit_small_patch16_224']
print(f'{row.source}, {row.licence}: {row.top1} % of ImageNet-1k')
print(row.preprocessing)

# %% [markdown]
# ## Load it
#
# `weights='published'` fetches them from the Hugging Face hub and keeps them there for the next time. A file of your
# own, in PyTorch's format or as .safetensors, serves as well.

# %%
network = longview.load('vit_small_patch16_224', weights='published')

# %% [markdown]
# ## What is in a picture?
#
# A picture is a file, an image of Pillow or an array of bytes. `classify` takes one or many, and returns classes with
# their probabilities, the likeliest first. These two come with scikit-learn.

# %%
from sklearn.datasets import load_sample_image

photos = [load_sample_image('china.jpg'), load_sample_image('flower.jpg')]
answers = network.classify(photos)
for ranked in answers:
    print(', '.join(f'{name} {probability:.1%}' for name, probability in ranked[:3]))

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 2, figsize=(9, 5), layout='constrained', width_ratios=(3, 2))
for (left, right), photo, ranked in zip(axes, photos, answers):
    left.imshow(photo)
    left.axis('off')
    names, probabilities = zip(*reversed(ranked[:5]))
    right.barh(names, probabilities)
    right.set(xlim=(0, 1), xlabel='probability')
plt.show()

# %% [markdown]
# ## What the network reads
#
# Its pictures are squares of 224 pixels: the short side is resized, the middle is cut out, and colors are scaled to
# about -1 to 1. `preprocess` does just that, by the code that an evaluation on ImageNet uses.

# %%
read = [network.preprocess(photo) for photo in photos]
figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout='constrained')
for axis, pixels in zip(axes, read):
    axis.imshow((pixels - pixels.min()) / (pixels.max() - pixels.min()))
    axis.set_title(f'{pixels.shape}, {pixels.min():.2f} to {pixels.max():.2f}')
    axis.axis('off')
plt.show()

# %% [markdown]
# ## What looks alike to it
#
# `features` returns what the network computes on the way. `map` has a vector for each patch of 16 x 16 pixels. We take
# the patch with the cross, and color every other patch by the cosine between its vector and that one.

# %%
import numpy as np

maps = network.features(photos)['map']
print(maps.shape)
directions = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
alike = [directions[0] @ directions[0, 6, 4], directions[1] @ directions[1, 7, 7]]

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout='constrained')
for axis, pixels, cosine, (row, column) in zip(axes, read, alike, [(6, 4), (7, 7)]):
    axis.imshow((pixels - pixels.min()) / (pixels.max() - pixels.min()), extent=(0, 14, 14, 0))
    axis.imshow(cosine, extent=(0, 14, 14, 0), cmap='inferno', alpha=0.6)
    axis.plot(column + 0.5, row + 0.5, 'w+', markersize=12)
    axis.axis('off')
print(f'likeness of a patch to itself: {alike[0][6, 4]:.4f}')
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - From a terminal: `python -m longview.predict vit_small_patch16_224 cat.jpg --weights=published`.
# - `longview.load(..., features_only=True)` of a pyramid such as `convnext_tiny` returns the maps of its stages, for
#   detection and segmentation.
# - [finetune](https://github.com/longview-jax/longview/blob/main/notebooks/finetune.ipynb) trains such a network on
#   your own classes.

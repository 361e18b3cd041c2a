# %% [markdown]
# # Fine-tune a published network on your own images
#
# A folder with a folder of images for each class is a data set. We cut one out of two photographs, train a new
# classifier on top of a published vision transformer, then all of the transformer, and let the result paint the
# photographs by class. It takes about two minutes on two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/finetune.ipynb)

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
# ## A folder of images
#
# With your own images skip the next two cells: `images/train/CLASS/*.jpg` and `images/val/CLASS/*.jpg` is all that is
# needed. Here the classes are regions of two photographs that come with scikit-learn. Training images are cut from the
# left two thirds of a region, those for validation from the rest, so that no pixel is in both.

# %%
import numpy as np
import PIL.Image
from sklearn.datasets import load_sample_image

photos = {name: load_sample_image(f'{name}.jpg') for name in ('china', 'flower')}
regions = {  # photograph, left, top, right, bottom
    'leaves': ('flower', 440, 0, 640, 260),
    'petals': ('flower', 185, 95, 430, 345),
    'sky': ('china', 350, 0, 640, 150),
    'temple': ('china', 85, 110, 330, 340),
    'trees': ('china', 330, 290, 570, 427),
}
rng, side = np.random.default_rng(0), 64

# %%
for label, (photo, left, top, right, bottom) in regions.items():
    border = left + 2 * (right - left) // 3
    for split, start, stop, count in (('train', left, border, 32), ('val', border, right, 16)):
        folder = pathlib.Path('images', split, label)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            x, y = rng.integers(start, stop - side + 1), rng.integers(top, bottom - side + 1)
            PIL.Image.fromarray(photos[photo][y : y + side, x : x + side]).save(folder / f'{number}.png')

# %% [markdown]
# ## What the network will see
#
# `configs/finetune.py` holds the recipe. Its preset `probe` trains a new head alone. We say where the images are, which
# network to begin with, and in which size it is to see images; smaller ones are quicker.

# %%
from longview.configs import finetune


def config_of(preset):
    config = finetune.get_config(preset)
    config.data.dataset = './images'
    network = config.task.network if preset == 'full' else config.task.inner.network
    network.name = 'vit_tiny_patch16_224'
    config.data.image_size = network.image_size = 96
    config.batch_size, config.log_every = 32, 20
    return config


probe = config_of('probe')
probe.optimizer.schedule.peak = 3e-3

# %%
import matplotlib.pyplot as plt

from longview.engine.show import show_batch

plt.figure(figsize=(8, 4.6))
plt.imshow(plt.imread(show_batch(probe, pathlib.Path('batch.png'))))
plt.axis('off')
plt.show()

# %% [markdown]
# ## Train a new head, stop, and go on
#
# A Colab machine may be taken away at any time. Nothing is lost: the same call goes on from the last checkpoint, and
# ends in the same numbers to the last bit. To show it, the first call may take twelve seconds only.

# %%
from longview import train
from longview.runtime.preemption import Preempted

try:
    train.train(probe, 'runs/probe', max_minutes=0.2)
except Preempted as stop:
    print(stop)

# %%
last = train.train(probe, 'runs/probe')
print(f'accuracy of the new head: {last["eval/accuracy"]:.3f}')

# %% [markdown]
# ## Train everything
#
# The preset `full` trains the whole network, its early layers more slowly than the late ones.

# %%
full = config_of('full')
full.epochs = 8.0
last = train.train(full, 'runs/full')
print(f'accuracy of the whole network: {last["eval/accuracy"]:.3f}')

# %% [markdown]
# ## Which classes are mixed up?

# %%
from sklearn.metrics import ConfusionMatrixDisplay

from longview import evaluate

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout='constrained')
for axis, name in zip(axes, ['probe', 'full']):
    judged = evaluate.evaluate(f'runs/{name}')
    ConfusionMatrixDisplay(judged.confusion, display_labels=judged.names).plot(ax=axis, colorbar=False)
    axis.set_title(f'{name}: {judged.figures["eval/accuracy"]:.1%}')
plt.show()

# %% [markdown]
# ## Paint the photographs
#
# `longview.load` opens the run; it remembers how its images were prepared and what the classes are called. We move a
# window over both photographs and color its middle by the class it is given.

# %%
import longview

network = longview.load('runs/full')
stride = 32


def painted(photo):
    rows, columns = ((length - side) // stride + 1 for length in photo.shape[:2])
    places = [(stride * row, stride * column) for row in range(rows) for column in range(columns)]
    windows = [photo[y : y + side, x : x + side] for y, x in places]
    numbers = [network.classes.index(ranked[0][0]) for ranked in network.classify(windows)]
    return np.reshape(numbers, (rows, columns))


# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
for axis, photo in zip(axes, photos.values()):
    found, start = painted(photo), (side - stride) / 2
    height, width = found.shape
    axis.imshow(photo)
    extent = (start, start + stride * width, start + stride * height, start)
    colors = axis.imshow(found, cmap='Set1', vmin=-0.5, vmax=8.5, alpha=0.55, extent=extent)
    axis.axis('off')
bar = figure.colorbar(colors, ax=axes, ticks=range(len(regions)), boundaries=np.arange(-0.5, len(regions)))
bar.ax.set_yticklabels(network.classes)
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - From a terminal:
#   `python train.py --config configs/finetune.py:probe --workdir runs/pets --config.data.dataset=./images`.
# - `python -m longview.predict runs/full photo.jpg` names what is in a picture,
#   `python -m longview.export runs/full exported` writes files that other programs read.

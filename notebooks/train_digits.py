# %% [markdown]
# # Train a network on digits
#
# We train a small ResNet to read hand-written digits, watch its figures, and look at the digits that it gets wrong.
# At the end you have a folder with a trained network that every other tool of Longview can open. It takes about a
# minute on two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/train_digits.ipynb)

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
# ## A run is described by a config
#
# A config is plain data: the network, the method that trains it, the data and the optimizer. Each file in `configs/`
# has presets; `digits` is the small one. Any value can be changed before the run begins.

# %%
from longview.configs import resnet50

config = resnet50.get_config('digits')
config.epochs = 8.0
config.batch_size = 64
config.optimizer.schedule.warmup_epochs = 2.0
config.log_every, config.eval_every = 20, 40
print(config.task)

# %% [markdown]
# ## What the network sees
#
# This is the first batch, after the random shifts that the config asks for.

# %%
import matplotlib.pyplot as plt

from longview.engine.show import show_batch

plt.figure(figsize=(8, 4.6))
plt.imshow(plt.imread(show_batch(config, pathlib.Path('batch.png'))))
plt.axis('off')
plt.show()

# %% [markdown]
# ## Training
#
# One call trains the network. It writes checkpoints and figures into its folder. Stop it and run the cell again: it
# goes on from the last checkpoint and ends in the same numbers.

# %%
from longview import train

last = train.train(config, 'runs/digits')
print(f'test accuracy: {last["eval/accuracy"]:.4f}')

# %% [markdown]
# ## The figures over time
#
# `metrics.jsonl` holds one line for each time that something was measured.

# %%
from longview.runtime import rows

measured = rows.read(pathlib.Path('runs/digits/metrics.jsonl'))
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout='constrained')
for axis, name in zip(axes, ['loss', 'accuracy']):
    for key in [key for key in (f'train/{name}', f'eval/{name}') if any(key in row for row in measured)]:
        axis.plot(*zip(*[(row['step'], row[key]) for row in measured if key in row]), label=key)
    axis.set(xlabel='step', ylabel=name)
    axis.legend()
plt.show()

# %% [markdown]
# ## Class by class
#
# An evaluation of the finished run also says which digits are taken for which.

# %%
from sklearn.metrics import ConfusionMatrixDisplay

from longview import evaluate

judged = evaluate.evaluate('runs/digits')
print(evaluate.table(judged))
ConfusionMatrixDisplay(judged.confusion, display_labels=judged.names).plot(colorbar=False)
plt.show()

# %% [markdown]
# ## The digits it gets wrong
#
# `longview.load` opens a run as a function from pictures to classes with their probabilities, the likeliest first.

# %%
import longview
from longview.data.digits import arrays

network = longview.load('runs/digits')
images, labels = arrays(test=True)
answers = [ranked[0] for ranked in network.classify(list(images))]
wrong = [index for index, (name, _) in enumerate(answers) if name != str(labels[index])]
print(f'wrong: {len(wrong)} of {len(images)}')

# %%
figure, axes = plt.subplots(2, 6, figsize=(9, 3.6), layout='constrained')
for axis, index in zip(axes.flat, wrong):
    name, probability = answers[index]
    axis.imshow(images[index], cmap='gray')
    axis.set_title(f'{labels[index]} taken for {name}\n({probability:.0%} sure)', fontsize=8)
for axis in axes.flat:
    axis.axis('off')
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - The same run from a terminal: `python train.py --config configs/resnet50.py:digits --workdir runs/digits`.
# - `config.task.backbone` names the network. The notebook
#   [own_block](https://github.com/longview-jax/longview/blob/main/notebooks/own_block.ipynb) puts a block of your own
#   into it.
# - [finetune](https://github.com/longview-jax/longview/blob/main/notebooks/finetune.ipynb) trains on your own images.

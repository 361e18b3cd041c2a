# %% [markdown]
# # Compress a trained network and export it
#
# We train a small vision transformer on digits, take three quarters of its hidden units away, train what is left a
# little more, and round its weights to few bits. Then we write the network as files that stand alone, among them a
# program that runs without Longview, and check that all of them answer with the same numbers. It takes about a minute
# and a half on two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/compress.ipynb)

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
# ## Several runs in one config
#
# `smaller` has stages, each with a folder of its own: `dense` trains the network; `smaller` keeps a quarter of the
# hidden units of every feed-forward layer, those with the largest weights; `cut` only measures what is left; `tuned`
# trains it on. The preset's other stages, for a comparison with a small network from random weights, we leave out here.

# %%
from longview.configs import smaller

config = smaller.get_config('digits')
config.order = ('dense', 'smaller', 'cut', 'tuned')
config.stages = {name: config.stages[name] for name in config.order}
print(config.stages.smaller)

# %%
from longview import train

last = train.train(config, 'runs/compress')
accuracy = {stage: last[f'{stage}/eval/accuracy'] for stage in ('dense', 'cut', 'tuned')}
for stage, value in accuracy.items():
    print(f'accuracy of {stage}: {value:.4f}')

# %% [markdown]
# Cutting alone costs a lot, and a few epochs make up for it. Each stage is a run like any other, so `longview.load`
# opens it.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import longview
from longview.data.digits import arrays

networks = {stage: longview.load(f'runs/compress/{stage}') for stage in accuracy}
images, labels = arrays(test=True)
pixels = jnp.stack([networks['dense'].preprocess(image) for image in images])
for stage, network in networks.items():
    print(f'weights of {stage}: {sum(leaf.size for leaf in jax.tree.leaves(network.variables))}')

# %% [markdown]
# ## Fewer bits
#
# A weight has 32 bits. `quantize` makes integers of it, with one scale for each output channel ([Krishnamoorthi,
# 2018](https://arxiv.org/abs/1806.08342)). Biases and norms are few, and stay as they are.

# %%
from flax import traverse_util

from longview.methods.quant.fake import quantize
from longview.trees import by_path


# %%
def rounded(variables, bits):
    """Returns the variables with rounded kernels, and the bytes that they take when integers are packed."""
    arrays, size = by_path(variables), 0.0
    for path, array in arrays.items():
        if path.endswith('/kernel'):
            integers, scale = quantize(array, bits)
            arrays[path] = integers * scale
            size += integers.size * bits / 8 + 4 * scale.size
        else:
            size += 4 * array.size
    return traverse_util.unflatten_dict(arrays, sep='/'), size


# %%
def measured(network):
    """Returns (bytes, test accuracy) of a network with whole weights, and by the bits of rounded ones."""
    answer = jax.jit(lambda variables: jnp.argmax(network.module.apply(variables, pixels)['logits'], -1))
    accuracy = lambda variables: float(np.mean(np.asarray(answer(variables)) == labels))
    points = {32: (4.0 * sum(leaf.size for leaf in jax.tree.leaves(network.variables)), accuracy(network.variables))}
    for bits in (8, 6, 5, 4, 3, 2):
        variables, size = rounded(network.variables, bits)
        points[bits] = size, accuracy(variables)
    return points


points = {stage: measured(networks[stage]) for stage in ('dense', 'tuned')}
for bits, (size, value) in points['tuned'].items():
    print(f'{bits:2} bits, {size / 1e3:6.1f} kB: accuracy {value:.4f}')

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(7, 4), layout='constrained')
for stage, by_bits in points.items():
    sizes, values = zip(*by_bits.values())
    plt.semilogx([size / 1e3 for size in sizes], values, 'o-', label=stage)
    for bits, size, value in zip(by_bits, sizes, values):
        plt.annotate(f'{bits}', (size / 1e3, value), textcoords='offset points', xytext=(4, 4), fontsize=8)
plt.xlabel('size, kB; beside the dots, the bits of a weight')
plt.xticks([25, 50, 100, 200, 400], ['25', '50', '100', '200', '400'])
plt.minorticks_off()
plt.ylabel('test accuracy')
plt.legend()
plt.show()

# %% [markdown]
# Down to five bits or so next to nothing is lost; at two the network breaks. `configs/quantization_whitepaper.py`
# trains with rounded weights, which gets further.

# %% [markdown]
# ## Files that stand alone
#
# `export` writes the weights, what the network is, a model card, and programs. In a terminal it is `python -m
# longview.export runs/compress/tuned exported/small --stablehlo`.

# %%
from longview import export

(folder,) = export.export('runs/compress/tuned', 'exported/small', programs=export.Programs(['cpu']), overwrite=True)
for file in sorted(folder.iterdir()):
    print(f'{file.stat().st_size / 1e3:8.1f} kB  {file.name}')

# %% [markdown]
# Read again, the network answers with the same numbers. So does the program, which needs jax and none of our code: the
# weights are its first argument.

# %%
import jax.export
import safetensors.numpy

network, variables = export.load(folder)
again = jax.jit(network.apply)(variables, pixels)['logits']

program = jax.export.deserialize((folder / 'model.cpu.stablehlo').read_bytes())
weights = safetensors.numpy.load_file(folder / 'arguments.safetensors')
of_program = program.call(weights, pixels)['logits']

original = networks['tuned'].features(list(images))['logits']
for name, logits in {'loaded again': again, 'as a program': of_program}.items():
    print(f'largest difference, {name}: {np.abs(np.asarray(logits) - original).max():.1e}')

# %% [markdown]
# Eight-bit integers can be written too. This file has a quarter of the size, and the network computes with the product
# of integers and scales.

# %%
from longview.modelzoo import weight_files

small = {}
for path, array in by_path(variables).items():
    if path.endswith('/kernel'):
        small[path], small[f'{path}/scale'] = map(np.asarray, quantize(array, 8))
    else:
        small[path] = np.asarray(array)
weight_files.write('exported/int8.safetensors', small)

# %%
files = {
    'dense': points['dense'][32][0],
    'a quarter of the units': (folder / 'arguments.safetensors').stat().st_size,
    'and 8 bits': pathlib.Path('exported/int8.safetensors').stat().st_size,
}
plt.figure(figsize=(7, 1.8), layout='constrained')
plt.barh(list(files)[::-1], [size / 1e3 for size in files.values()][::-1])
plt.xlabel('kB')
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - [docs/export.md](https://github.com/longview-jax/longview/blob/main/docs/export.md): programs for TPUs and GPUs, for
#   fixed batch sizes, and what is in each file.
# - `configs/lottery_ticket.py`, `trp.py` and `teacher_student.py` are other ways to a small network.

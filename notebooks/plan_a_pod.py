# %% [markdown]
# # Plan a run on a pod
#
# Before a run waits in a queue for 64 chips, we want to know whether its settings are right, how long it will be, and
# whether it fits into memory. A dry run says so without an accelerator and without data. At the end you have the plan
# of ViT-S on ImageNet, and the training step of a small network compiled for four TPU chips. It takes half a minute on
# two CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/plan_a_pod.ipynb)

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
# ## What the run will be
#
# Nothing of the run is computed; this process only pretends to have 64 devices. The mesh says how they are used: `data`
# splits the batch, and `fsdp` splits parameters and optimizer state too.

# %%
import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 64)

# %%
from longview.configs import vit_s16
from longview.engine import dry_run
from longview.runtime.resolve import plain, resolve

config = vit_s16.get_config('imagenet')
print(dry_run.report(plain(config), devices=64))

# %% [markdown]
# ## The learning rate
#
# The plan draws it as text; here is the same curve as a picture. A schedule is made of the number of steps and of steps
# in an epoch.

# %%
import matplotlib.pyplot as plt
import numpy as np

epoch = 1_281_167 / config.batch_size
steps = int(config.epochs * epoch)
schedule = resolve(config.optimizer.schedule)(steps, epoch)
places = np.linspace(0, steps - 1, 300).astype(int)
plt.figure(figsize=(7, 3), layout='constrained')
plt.plot(places / epoch, [float(schedule(step)) for step in places])
plt.xlabel('epoch')
plt.ylabel('learning rate')
plt.show()

# %% [markdown]
# ## What each device holds
#
# With `fsdp=1` every device holds all parameters. The more devices share them, the less each holds; the report then
# says, too, how every parameter is split. What is left of a device's memory is for activations.

# %%
import re

UNITS = {'B': 2**-20, 'KiB': 2**-10, 'MiB': 1, 'GiB': 2**10}
PARTS = ('parameters', 'optimizer', 'a batch')


def each_device(fsdp):
    config.mesh.fsdp = fsdp
    report = dry_run.report(plain(config), devices=64)
    found = [re.search(rf'^ +{part} +\S+ \S+ +(\S+) (\S+)$', report, re.M).groups() for part in PARTS]
    return [float(size) * UNITS[unit] for size, unit in found]


ways = (1, 4, 16, 64)
held = np.array([each_device(fsdp) for fsdp in ways])
print(f'MiB of parameters on each of 64 devices: {held[-1, 0]:.3f}')

# %%
plt.figure(figsize=(7, 3), layout='constrained')
for part, size, below in zip(PARTS, held.T, np.cumsum(held, axis=1).T - held.T):
    plt.bar([str(fsdp) for fsdp in ways], size, bottom=below, label=part)
plt.xlabel('config.mesh.fsdp')
plt.ylabel('MiB on each device')
plt.legend()
plt.show()

# %% [markdown]
# ## The step, compiled for TPUs
#
# With libtpu installed (`pip install libtpu`, Linux on x86-64) the training step is compiled for chips that are not
# here. What XLA then says of memory and communication is what it would say there. We take a small network on four
# chips; ViT-S itself needs about a minute.

# %%
small = vit_s16.get_config('digits')
small.mesh.fsdp = 2
small.task.inner.backbone.scan = True
try:
    report = dry_run.report(plain(small), topology='v5e:2x2')
    print(report[report.index('a step on each chip') :])
except ValueError as missing:
    report = ''
    print(missing)

# %% [markdown]
# ## What bounds it
#
# A chip multiplies, uses its memory and talks to the other chips at the same time. The longest of the three bars is the
# least time that a step can take. For so small a network it is that of the memory.

# %%
found = re.search(r'products (\S+) ms, memory (\S+) ms, links (\S+) ms', report)
times = [float(text) for text in found.groups()] if found else [0.0] * 3
figure, axis = plt.subplots(figsize=(6, 2), layout='constrained')
axis.barh(['products', 'memory', 'links'], times)
axis.set(xlabel='ms at best')
print(f'at best, ms a step: {max(times)}')
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - From a terminal: `python train.py --config configs/vit_s16.py --dry_run --topology=v5e:4x4`. Where the step does
#   not fit it says so. [docs/scale.md](https://github.com/longview-jax/longview/blob/main/docs/scale.md) explains
#   each line.
# - On the pod the command is that of a laptop, run on every host.

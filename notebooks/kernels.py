# %% [markdown]
# # Scans and long convolutions as library calls
#
# A scan carries a state along a sequence; a long convolution has a kernel as long as the sequence. Networks for long
# sequences are made of them, and Longview has both as functions of arrays. We call them, hold them against a loop that
# reads like the paper, time them as the sequence grows, and look at where the time goes. It takes about a minute on two
# CPU cores.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/longview-jax/longview/blob/main/notebooks/kernels.ipynb)

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
# ## The simplest scan
#
# `linear_scan` computes `h_t = a_t h_{t-1} + x_t` for every channel by itself. With a decay near 1 it is a moving
# average of a noisy signal: the nearer to 1, the longer it remembers. Arrays are (batch, tokens, channels), and the
# state after the last token comes back too.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from longview.kernels.linear_scan import linear_scan

time = jnp.arange(600.0)
clean = jnp.sin(time / 60)
noisy = clean + jax.random.normal(jax.random.key(0), time.shape)
decay = jnp.array([0.5, 0.9, 0.97])
averages, last_state = linear_scan(decay, (1 - decay) * noisy[None, :, None])
print('averages', averages.shape, 'last state', last_state.shape)

# %%
plt.figure(figsize=(9, 3), layout='constrained')
plt.plot(noisy, color='0.85', label='noisy')
for channel, a in enumerate(decay):
    plt.plot(averages[0, :, channel], label=f'decay {a:.2f}')
plt.plot(clean, 'k--', label='clean')
plt.legend(ncols=5, fontsize='small')
plt.xlabel('token')
plt.show()

# %% [markdown]
# ## Mamba's selective scan
#
# In [Mamba](https://arxiv.org/abs/2312.00752) every channel has several states, and how fast they decay, what they take
# in and what they put out follows from the token: `delta`, `B` and `C` differ from token to token.

# %%
from longview.kernels.selective_scan import selective_scan


def scan_inputs(tokens, channels=64, states=16):
    keys = jax.random.split(jax.random.key(1), 4)
    u, delta = (jax.random.normal(key, (1, tokens, channels)) for key in keys[:2])
    B, C = (jax.random.normal(key, (1, tokens, states)) for key in keys[2:])
    A = -jnp.broadcast_to(jnp.arange(1.0, states + 1), (channels, states))
    return u, delta, A, B, C


outputs, state = selective_scan(*scan_inputs(1000), softplus=True)
print('outputs', outputs.shape, 'state', state.shape)

# %% [markdown]
# ## Held against the reference
#
# Every op has a form named `reference`, a loop over tokens that reads like the paper. Outputs and gradients of the form
# that runs by default agree with it up to rounding.

# %%
from longview.kernels.gla import gla
from longview.kernels.long_conv import long_conv


def difference(op, *arrays):
    """Returns the distance to the reference over its size, of the output and of all gradients."""
    everything = tuple(range(len(arrays)))
    results = []
    for form in (None, 'reference'):
        run = lambda *arrays: op(*arrays, implementation=form)
        gradients = jax.grad(lambda *arrays: jnp.sum(jnp.sin(run(*arrays))), everything)(*arrays)
        results.append([run(*arrays), *gradients])
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(*results))


# %%
def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


q, k, v, g = normal(2, 1, 300, 2, 16), normal(3, 1, 300, 2, 16), normal(4, 1, 300, 2, 32), normal(5, 1, 300, 2, 16)
log_decay = jax.nn.log_sigmoid(g)
scan = lambda *arrays, **rest: selective_scan(*arrays, softplus=True, **rest)[0]
attention = lambda *arrays, **rest: gla(*arrays, **rest)[0]

print(f'selective scan differs by {difference(scan, *scan_inputs(300)):.1e}')
print(f'gated linear attention differs by {difference(attention, q, k, v, log_decay):.1e}')
print(f'long convolution differs by {difference(long_conv, normal(6, 1, 300, 8), normal(7, 300, 8) / 17):.1e}')

# %% [markdown]
# ## A long convolution
#
# Here the kernel has a tap for every token: a click is followed by three echoes, each weaker than the one before.
# `long_conv` answers for all channels at once, and never looks ahead.

# %%
taps = jnp.zeros(2000).at[jnp.array([0, 500, 1000, 1500])].set(jnp.array([1.0, 0.6, 0.4, 0.2]))
clicks = jnp.exp(-(jnp.arange(2000.0) % 2000) / 40) * jnp.sin(jnp.arange(2000.0) / 3)
heard = long_conv(clicks[None, :, None], taps[:, None])

plt.figure(figsize=(9, 2.4), layout='constrained')
plt.plot(heard[0, :, 0], label='heard', linewidth=0.8)
plt.plot(clicks, label='played', linewidth=0.8)
plt.legend()
plt.xlabel('token')
plt.show()

# %% [markdown]
# ## The obvious ways
#
# A scan can be written as `jax.lax.scan` over tokens. A convolution can be written as its sum, whose work grows with
# the square of the length, or by `jnp.fft`, with as many zeros appended as there are tokens.


# %%
@jax.jit
def token_by_token(u, delta, A, B, C):
    def step(state, token):
        u, delta, B, C = token
        state = jnp.exp(delta[:, :, None] * A) * state + (delta * u)[:, :, None] * B[:, None]
        return state, jnp.sum(state * C[:, None], axis=-1)

    tokens = [jnp.moveaxis(x, 1, 0) for x in (u, jax.nn.softplus(delta), B, C)]
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros((len(u), *A.shape)), tokens)[1], 0, 1)


# %%
@jax.jit
def as_a_sum(u, kernel):
    one = lambda u, kernel: jnp.convolve(u, kernel)[: len(u)]
    return jax.vmap(jax.vmap(one, (1, 1), 1), (0, None))(u, kernel)


@jax.jit
def by_fft(u, kernel):
    size = 2 * u.shape[1]
    spectrum = jnp.fft.rfft(u, size, axis=1) * jnp.fft.rfft(kernel, size, axis=0)
    return jnp.fft.irfft(spectrum, size, axis=1)[:, : u.shape[1]]


# %% [markdown]
# ## Timed over growing length
#
# We take the best of five calls, after one that compiles. Training needs gradients, so the scan is timed with them too.
# Both axes are logarithmic: work that grows with the length has slope 1, with its square slope 2.

# %%
from time import perf_counter


def milliseconds(function, *arrays):
    jax.block_until_ready(function(*arrays))
    times = []
    for _ in range(5):
        start = perf_counter()
        jax.block_until_ready(function(*arrays))
        times.append(1e3 * (perf_counter() - start))
    return min(times)


def with_gradients(function):
    return jax.jit(jax.grad(lambda *arrays: jnp.sum(function(*arrays) ** 2), argnums=(0, 1, 2, 3, 4)))


# %%
lengths = [256, 1024, 4096]
scans = {'selective_scan': scan, 'jax.lax.scan': token_by_token}
timed = {name: [milliseconds(f, *scan_inputs(n)) for n in lengths] for name, f in scans.items()}
timed |= {
    f'{name}, gradients': [milliseconds(with_gradients(f), *scan_inputs(n)) for n in lengths]
    for name, f in scans.items()
}
for name, values in timed.items():
    print(f'{name:28}', ' '.join(f'{ms:8.2f}' for ms in values), 'ms')

# %%
convolutions = {'long_conv': long_conv, 'jnp.fft': by_fft, 'jnp.convolve': as_a_sum}
convolved = {
    name: [milliseconds(f, normal(8, 1, n, 32), normal(9, n, 32)) for n in (lengths[:2] if f is as_a_sum else lengths)]
    for name, f in convolutions.items()
}
for name, values in convolved.items():
    print(f'{name:28}', ' '.join(f'{ms:8.2f}' for ms in values), 'ms')

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
for axis, title, curves in zip(axes, ['scan, 64 channels', 'convolution, 32 channels'], [timed, convolved]):
    for name, values in curves.items():
        axis.loglog(lengths[: len(values)], values, 'o--' if 'gradients' in name else 'o-', label=name)
    axis.set_xscale('log', base=2)
    axis.set(title=title, xlabel='tokens', ylabel='ms')
    axis.legend(fontsize='small')
plt.show()

# %% [markdown]
# Scans are linear in the length however they are written. On a CPU a loop over tokens is a fair opponent, as long as
# the states of all tokens, which its gradients keep, fit into the cache. Longview's keep one state of each chunk and
# recompute the others. The compiler says how much it sets aside for the gradients, besides what goes in and comes out:

# %%
for name, function in scans.items():
    compiled = with_gradients(function).lower(*scan_inputs(4096)).compile()
    print(f'memory of gradients, {name}: {compiled.memory_analysis().temp_size_in_bytes / 2**20:.1f} MiB')

# %% [markdown]
# A convolution as a sum is quadratic and soon out of the question; by FFT it is nearly linear. On a CPU `long_conv`
# costs about what `jnp.fft` does. It keeps only its inputs for the gradients, and on a TPU it is made of matrix
# products.

# %% [markdown]
# ## Where the time goes
#
# `jax.profiler` writes a trace, and `longview.runtime.profile` reads it without a browser: the time of each operation,
# and how long the device waited.

# %%
from longview.runtime import profile

arrays = scan_inputs(4096)
train_step = with_gradients(scan)
jax.block_until_ready(train_step(*arrays))
with jax.profiler.trace('traces'):
    for _ in range(3):
        jax.block_until_ready(train_step(*arrays))
found = profile.read('traces')
print(found.table(count=5))

# %%
costly = found.operations[:8][::-1]
plt.figure(figsize=(9, 3), layout='constrained')
plt.barh([row.name for row in costly], [100 * row.share for row in costly])
plt.xlabel('% of the time of all operations')
plt.show()

# %% [markdown]
# ## Which form runs where
#
# One call serves every platform: the form is chosen by the platform that a program is lowered for. So this machine can
# show what a TPU would run. There the program calls a Pallas kernel, here it is plain XLA.


# %%
import jax.export


def calls_a_kernel(op, platform, *arrays):
    text = jax.export.export(jax.jit(op), platforms=[platform])(*arrays).mlir_module()
    return 'tpu_custom_call' in text or 'triton' in text


for platform in ('cpu', 'cuda', 'tpu'):
    kernel = calls_a_kernel(scan, platform, *scan_inputs(512))
    print(f'{platform:5} {"a Pallas kernel" if kernel else "plain XLA"}')

# %% [markdown]
# A form can be asked for by its name, in one call or for all calls inside of a `with`. What cannot serve says so.

# %%
from longview.kernels import dispatch

with dispatch.prefer(selective_scan='reference'):
    print(float(scan(*scan_inputs(100)).std()), 'by the reference')
try:
    scan(*scan_inputs(100), implementation='pallas_tpu')
except NotImplementedError as error:
    print(error)

# %% [markdown]
# ## Where to go from here
#
# - [docs/kernels.md](https://github.com/longview-jax/longview/blob/main/docs/kernels.md) has the equations, the forms
#   and more figures.
# - The same ops over several devices, with the tokens split among them: `sequence_parallel_selective_scan` and its kin,
#   on the same page.
# - In a run, `--config.kernels.gla=reference` names a form, and `--profile=20:25` traces steps.

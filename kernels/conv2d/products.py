"""Convolution as matrix products, for CPUs, where XLA's derivatives of convolutions are slow.

A 1 x 1 kernel is a matrix on every pixel, and its gradients are matrix products too. XLA's convolution takes 2 to 15
times as long for the gradient of such a kernel: it is one convolution of transposed operands, whose window is the image
and whose channels are the batch.

The gradient of a larger kernel is, for each image and tap, a product of the cotangent and the pixels that the tap
reads. The cotangent is transposed, once for all taps, and the pixels of an image stay in the cache. Output and gradient
of the image are left to XLA's convolution. Sums are float32, or float64 if an input is float64.

Of a kernel whose channels are in groups, XLA's gradient takes 10 to 240 times as long as a product per tap and group;
its output and the gradient of the image do not, unless every group is one channel.
"""

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels.conv2d.plan import Plan


def matrix(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the output of a 1 x 1 kernel."""
    pixels = _thinned(plan, x)
    y = pixels.reshape(-1, x.shape[3]) @ kernel[0, 0].astype(x.dtype)
    return y.reshape(*pixels.shape[:3], kernel.shape[3])


def matrix_gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of images and a 1 x 1 kernel."""
    pixels, cotangent = _thinned(plan, x), dy.reshape(-1, dy.shape[3])
    dkernel = _product(pixels.reshape(-1, x.shape[3]).T, cotangent)[None, None]
    dx = (cotangent @ kernel[0, 0].astype(dy.dtype).T).reshape(pixels.shape)
    rest = [
        (0, side - (count - 1) * step - 1, step - 1)
        for side, count, step in zip(x.shape[1:3], dy.shape[1:3], plan.stride)
    ]
    if max(map(max, rest)):
        dx = lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *rest, (0, 0, 0)])
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


def kernel_gradient(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns the cotangent of a kernel larger than 1 x 1; it loops over the batch, so it is for one device."""
    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    padded = jnp.pad(x, ((0, 0), *plan.padding, (0, 0)))

    def add(sums: list[jax.Array], pair: tuple[jax.Array, jax.Array]) -> tuple:
        image, cotangent = pair
        # Transposed here, or the products would have a transposed view as operand, which takes twice as long.
        turned = lax.optimization_barrier(cotangent.reshape(-1, dy.shape[3]).T)
        read = lambda tap: plan.read(image, tap, dy.shape[1:3]).reshape(-1, x.shape[3])
        return [total + _product(turned, read(tap)) for total, tap in zip(sums, taps)], None

    wide = jnp.result_type(x, dy, jnp.float32)
    zeros = [jnp.zeros_like(dy, wide, (dy.shape[3], x.shape[3]))] * len(taps)
    sums, _ = lax.scan(add, zeros, (padded, dy))
    return jnp.stack(sums).swapaxes(1, 2).reshape(kernel.shape).astype(kernel.dtype)


def grouped_kernel_gradient(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns the cotangent of a kernel whose channels are in groups."""
    groups = plan.groups(x, kernel)
    apart = lambda maps: maps.reshape(*maps.shape[:3], groups, -1)
    padded, cotangent = jnp.pad(x, ((0, 0), *plan.padding, (0, 0))), apart(dy)
    wide = jnp.result_type(x, dy, jnp.float32)
    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    products = [
        jnp.einsum('bpqgd,bpqgn->dgn', apart(_seen(plan, padded, tap, dy)), cotangent, preferred_element_type=wide)
        for tap in taps
    ]
    return jnp.stack(products).reshape(kernel.shape).astype(kernel.dtype)


def per_channel(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the output of one kernel per channel: a sum over taps."""
    wide = jnp.result_type(x, jnp.float32)
    padded, y = jnp.pad(x, ((0, 0), *plan.padding, (0, 0))), jnp.zeros((), wide)
    rows, columns = plan.sizes(x, kernel)
    outputs = jax.ShapeDtypeStruct((x.shape[0], rows, columns, x.shape[3]), wide)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            y = y + _seen(plan, padded, (i, j), outputs).astype(wide) * kernel[i, j, 0].astype(wide)[None, None, None]
    return y.astype(x.dtype)


def _seen(plan: Plan, padded: jax.Array, tap: tuple[int, int], outputs: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Returns what a tap reads of padded images (B, H, W, C) for each pixel of the outputs."""
    stop = [n + (count - 1) * step + 1 for n, count, step in zip(tap, outputs.shape[1:3], plan.stride)]
    return lax.slice(padded, (0, *tap, 0), (padded.shape[0], *stop, padded.shape[3]), (1, *plan.stride, 1))


def _thinned(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns the pixels that a strided 1 x 1 kernel reads."""
    return x[:, :: plan.stride[0], :: plan.stride[1]]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.result_type(a, b, jnp.float32))

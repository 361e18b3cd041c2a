"""Pictures of dense tasks: classes in colours, and boxes on images; all (B, H, W, 3) floats from 0 to 1."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Num

# Pictures are enlarged by a whole number to at least so many rows.
LEAST = 128


def palette(classes: int) -> Float[np.ndarray, 'k 3']:
    """Returns the colours of PASCAL VOC, http://host.robots.ox.ac.uk/pascal/VOC/: far apart, and black for class 0.

    Bits 0, 3, 6, ... of a class are the highest bits of red, bits 1, 4, 7, ... of green, and 2, 5, 8, ... of blue.
    """
    number = np.arange(classes)[:, None]
    bits = [(number >> (3 * place + np.arange(3)) & 1) << (7 - place) for place in range(8)]
    return (np.sum(bits, axis=0) / 255).astype(np.float32)


def gray(image: Num[Array, 'b h w c']) -> Float[Array, 'b h w 3']:
    """Returns images from black, the least value of each, to white; other than three channels are averaged."""
    image = image.astype(jnp.float32)
    if image.shape[-1] != 3:
        image = image.mean(axis=-1, keepdims=True)
    low, high = (of(image, axis=(1, 2, 3), keepdims=True) for of in (jnp.min, jnp.max))
    image = (image - low) / jnp.where(high > low, high - low, 1)
    return jnp.broadcast_to(image, (*image.shape[:3], 3))


def coloured(classes: Integer[Array, 'b h w'], count: int) -> Float[Array, 'b h w 3']:
    """Returns a map of classes in their colours, and white where there is none of 0 ... `count` - 1."""
    colours = jnp.asarray(np.concatenate([palette(count), np.ones((1, 3), np.float32)]))
    return colours[jnp.where((classes >= 0) & (classes < count), classes, count)]


def enlarged(image: Float[Array, 'b h w c'], least: int = LEAST) -> Float[Array, 'b h2 w2 c']:
    """Returns images of which each pixel is a square of pixels, so that they have at least so many rows."""
    times = max(1, -(-least // image.shape[1]))
    return image.repeat(times, axis=1).repeat(times, axis=2)


def boxed(
    image: Float[Array, 'b h w 3'],
    boxes: Float[Array, 'b n 4'],
    label: Integer[Array, 'b n'],
    valid: Bool[Array, 'b n'],
    classes: int,
) -> Float[Array, 'b h2 w2 3']:
    """Returns enlarged images with the outline of each box in the colour of its class; black is no class's.

    Args:
        image: from `gray`.
        boxes: (y0, x0, y1, x1) in pixels of the image.
        label, valid: of each box.
        classes: number of classes.
    """
    large = enlarged(image)
    rows, columns = jnp.arange(large.shape[1])[None, :, None], jnp.arange(large.shape[2])[None, None]
    colours = jnp.asarray(palette(classes + 1)[1:])
    boxes = jnp.round(boxes * (large.shape[1] / image.shape[1]))
    for n in range(boxes.shape[1]):
        y0, x0, y1, x1 = (side[:, None, None] for side in jnp.unstack(boxes[:, n], axis=-1))
        inside = lambda edge: (rows >= y0 + edge) & (rows < y1 - edge) & (columns >= x0 + edge) & (columns < x1 - edge)
        outline = inside(0) & ~inside(1) & valid[:, n, None, None]
        large = jnp.where(outline[..., None], colours[label[:, n]][:, None, None], large)
    return large

"""Universal random features as the reference of scalable neural network kernels calls them."""

import functools

import jax

from longview.modelzoo.layers.snnk import urf_features, urf_kernel


@jax.jit
def features_and_layer(x, w, projection, xi):
    """Real features of both sides with a slope for each row, and their products."""
    features = urf_features(x, projection, xi)
    return {'features': features, 'layer': features @ urf_features(w, projection, xi).T}


@functools.partial(jax.jit, static_argnames='M')
def cosine(x, w, bias, projection, sign, M):
    """An estimate of ``cos(x . w + bias)``.

    The reference sums over frequencies of both signs, whichever comes first, and halves: that is the real part for one.
    """
    del sign
    phi = urf_features(x, projection, 1j**0.5, M)
    kernel = urf_kernel(w.T, bias, projection, 'cos', M)
    half = len(projection)
    return phi.real @ kernel[:half] + phi.imag @ kernel[half:]

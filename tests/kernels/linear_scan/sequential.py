"""The linear scan and its gradients in NumPy, in double precision, token by token: the reference of all tests."""

import numpy as np


def linear_scan(arrays, reverse):
    """Outputs and all gradients (by JAX's convention) by name; `arrays` holds the inputs, `dh` and `dlast`."""
    a, x = arrays['a'], arrays['x']
    decay = np.broadcast_to(a, x.shape)
    length = x.shape[1]
    order = list(range(length)[::-1] if reverse else range(length))
    state = arrays.get('state', np.zeros_like(x[:, 0]))
    h, before = np.zeros_like(arrays['dh']), np.zeros_like(arrays['dh'])
    for t in order:
        before[:, t] = state
        h[:, t] = state = decay[:, t] * state + x[:, t]
    last, dstate = state, arrays['dlast']
    dx = np.zeros_like(h)
    for t in order[::-1]:
        dx[:, t] = dstate + arrays['dh'][:, t]
        dstate = decay[:, t] * dx[:, t]
    da = dx * before
    found = {'h': h, 'last': last, 'da': da if a.ndim == 3 else da.sum((0, 1)), 'dx': dx}
    found |= {'dstate': dstate} if 'state' in arrays else {}
    like = {f'd{name}': np.iscomplexobj(value) for name, value in arrays.items()}
    return {name: value if like.get(name, True) else value.real for name, value in found.items()}

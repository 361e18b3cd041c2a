"""The selective scan and its gradients in NumPy float64, token by token: the reference of all tests."""

import numpy as np


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def selective_scan(arrays, softplus, reverse):
    """Outputs and all gradients by name; `arrays` holds the inputs, `dy` and `dlast`, in float64."""
    u, A = arrays['u'], arrays['A']
    batch, length, channels = u.shape
    groups = arrays['B'].shape[2] if arrays['B'].ndim == 4 else 1
    wide = lambda x: np.repeat(x.reshape(batch, length, groups, -1), channels // groups, axis=2)
    B, C = wide(arrays['B']), wide(arrays['C'])
    raw = arrays['delta'] + arrays.get('delta_bias', 0.0)
    delta = np.logaddexp(raw, 0) if softplus else raw
    D, z = arrays.get('D', np.zeros(channels)), arrays.get('z')
    gate = np.ones_like(u) if z is None else z * _sigmoid(z)
    start = arrays.get('state', np.zeros((batch, *A.shape)))
    order = list(range(length)[::-1] if reverse else range(length))

    state, states, before = start, {}, {}
    y = np.zeros_like(u)
    for t in order:
        before[t] = state
        state = np.exp(delta[:, t, :, None] * A) * state + (delta * u)[:, t, :, None] * B[:, t]
        states[t] = state
        y[:, t] = (state * C[:, t]).sum(-1)
    read = y + D * u

    dread = arrays['dy'] * gate
    dstate, dA = arrays['dlast'], np.zeros_like(A)
    ddelta, du, dB, dC = np.zeros_like(u), dread * D, np.zeros_like(B), np.zeros_like(C)
    for t in order[::-1]:
        dC[:, t] = dread[:, t, :, None] * states[t]
        dstate = dstate + dread[:, t, :, None] * C[:, t]
        dB[:, t] = dstate * (delta * u)[:, t, :, None]
        dx = (dstate * B[:, t]).sum(-1)
        du[:, t] += dx * delta[:, t]
        dstate = dstate * np.exp(delta[:, t, :, None] * A)
        dexponent = dstate * before[t]
        ddelta[:, t] = dx * u[:, t] + (dexponent * A).sum(-1)
        dA += (dexponent * delta[:, t, :, None]).sum(0)
    draw = ddelta * _sigmoid(raw) if softplus else ddelta
    narrow = lambda x, like: x.reshape(batch, length, groups, -1, x.shape[-1]).sum(3).reshape(like.shape)
    found = {'y': read * gate, 'last': state, 'du': du, 'ddelta': draw, 'dA': dA}
    found |= {'dB': narrow(dB, arrays['B']), 'dC': narrow(dC, arrays['C'])}
    found |= {'dD': (dread * u).sum((0, 1)), 'ddelta_bias': draw.sum((0, 1)), 'dstate': dstate}
    if z is not None:
        found['dz'] = arrays['dy'] * read * (_sigmoid(z) * (1 + z * (1 - _sigmoid(z))))
    return {name: x for name, x in found.items() if name in ('y', 'last') or name[1:] in arrays}

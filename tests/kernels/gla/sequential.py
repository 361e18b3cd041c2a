"""Gated linear attention and its gradients in NumPy float64, token by token: the reference of all tests."""

import numpy as np


def gla(q, k, v, g, scale, state, reverse=False):
    """Returns the outputs (B, T, H, V), the last state, and the state after every token."""
    order = range(q.shape[1])[::-1] if reverse else range(q.shape[1])
    decay = np.exp(g if g.ndim == 4 else g[..., None])[..., None]
    outputs, states = np.zeros(v.shape), np.zeros((q.shape[1], *state.shape))
    for t in order:
        state = decay[:, t] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs[:, t] = scale * np.einsum('bhk,bhkv->bhv', q[:, t], state)
        states[t] = state
    return outputs, state, states


def gradients(q, k, v, g, scale, state, reverse, do, dstate):
    """Returns the gradients of sum(o * do) + sum(last * dstate) for q, k, v, g and the first state."""
    _, _, states = gla(q, k, v, g, scale, state, reverse)
    order = list(range(q.shape[1])[::-1] if reverse else range(q.shape[1]))
    before = {t: states[s] for t, s in zip(order[1:], order)} | {order[0]: state}
    decay = np.exp(g if g.ndim == 4 else g[..., None])[..., None]
    dq, dk, dv, dg = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape), np.zeros(q.shape)
    for t in reversed(order):
        dq[:, t] = scale * np.einsum('bhv,bhkv->bhk', do[:, t], states[t])
        dstate = dstate + scale * q[:, t, :, :, None] * do[:, t, :, None, :]
        dk[:, t] = np.einsum('bhkv,bhv->bhk', dstate, v[:, t])
        dv[:, t] = np.einsum('bhkv,bhk->bhv', dstate, k[:, t])
        dg[:, t] = np.sum(decay[:, t] * before[t] * dstate, axis=-1)
        dstate = decay[:, t] * dstate
    return {'dq': dq, 'dk': dk, 'dv': dv, 'dg': dg if g.ndim == 4 else dg.sum(-1), 'dstate': dstate}

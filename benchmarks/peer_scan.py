"""PyTorch's side of `benchmarks.kernels cpu --ops=scan`: both scans token by token, on one thread.

    python -m benchmarks.peer_scan selective:B,T,D,N
    python -m benchmarks.peer_scan linear:B,T,D

Decays and inputs of the states are computed for all tokens at once, as in the reference of
https://github.com/state-spaces/mamba; then each token is one fused multiply-add into the array of states, and the
outputs are one product over all states: the fastest of the plain forms tried. For gradients the same loop creates a
separate array for each state, as autograd requires. No code was taken from others. Needs torch only.
"""

import sys

import torch

from benchmarks.peer import serve
from benchmarks.peer_torch import calls


def scan(decay: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """Returns the states (B, T, ..) after each token."""
    if not torch.is_grad_enabled():
        states, state = torch.empty_like(added), added[:, 0] * 0
        for t in range(added.shape[1]):
            state = torch.addcmul(added[:, t], decay[:, t], state, out=states[:, t])
        return states
    state, states = torch.zeros_like(added[:, 0]), []
    for fade, new in zip(decay.unbind(1), added.unbind(1)):
        state = torch.addcmul(new, fade, state)
        states.append(state)
    return torch.stack(states, 1)


def selective(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    """The selective scan without gate and skip."""
    states = scan((delta[..., None] * A).exp(), (delta * u)[..., None] * B[:, :, None])
    return (states @ C[..., None])[..., 0]


def inputs(kind: str, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Returns random inputs for the op."""
    batch, tokens, channels, *states = shape
    row = lambda width: torch.randn(batch, tokens, width)
    if kind == 'linear':
        return [torch.sigmoid(row(channels) + 2), row(channels)]
    delta = torch.nn.functional.softplus(row(channels) - 3)
    A = -torch.arange(1.0, states[0] + 1).expand(channels, -1).contiguous()
    return [row(channels), delta, A, row(states[0]), row(states[0])]


def main(case: str) -> None:
    torch.set_num_threads(1)
    kind, shape = case.split(':')
    op = {'selective': selective, 'linear': scan}[kind]
    serve(torch.__version__, calls(op, inputs(kind, tuple(map(int, shape.split(','))))))


if __name__ == '__main__':
    main(*sys.argv[1:])

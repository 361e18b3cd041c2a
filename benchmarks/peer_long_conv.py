"""PyTorch's side of `benchmarks.kernels cpu --ops=long_conv`: a causal convolution by real FFTs, on one thread.

    python -m benchmarks.peer_long_conv long_conv:B,T,D

The published form: real FFTs of twice the length, their product, the inverse. For (B, T, D) arrays like ours there are
two variants, transforms along the strided tokens and of a transposed copy; the faster one counts, for each kind of
call. A case that begins with "own" instead has the layout that suits PyTorch, (B, D, T), throughout. No code was taken
from others. Needs torch only.
"""

import sys
from functools import partial

import torch

from benchmarks.peer import seconds, serve
from benchmarks.peer_torch import calls


def by_fft(u: torch.Tensor, kernel: torch.Tensor, dim: int) -> torch.Tensor:
    """The convolution along a dimension counted from the end."""
    size = 2 * u.shape[dim]
    spectrum = torch.fft.rfft(u, size, dim=dim) * torch.fft.rfft(kernel, size, dim=dim)
    return torch.fft.irfft(spectrum, size, dim=dim).narrow(dim, 0, u.shape[dim])


def transposed(u: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The convolution along the tokens of (B, T, D), by a transposed copy (B, D, T)."""
    turned = (x.transpose(-1, -2).contiguous() for x in (u, kernel))
    return by_fft(*turned, dim=-1).transpose(-1, -2).contiguous()


def main(case: str) -> None:
    torch.set_num_threads(1)
    layout, shape = case.split(':')
    batch, tokens, channels = map(int, shape.split(','))
    if layout == 'own':
        arrays = [torch.randn(batch, channels, tokens), torch.randn(channels, tokens)]
        serve(torch.__version__, calls(partial(by_fft, dim=-1), arrays))
        return
    arrays = [torch.randn(batch, tokens, channels), torch.randn(tokens, channels)]
    ways = [calls(form, arrays) for form in (partial(by_fft, dim=-2), transposed)]
    for call in (call for way in ways for call in way.values()):
        call()
    serve(torch.__version__, {kind: min((way[kind] for way in ways), key=seconds) for kind in ways[0]})


if __name__ == '__main__':
    main(*sys.argv[1:])

"""PyTorch's side of `benchmarks.kernels cpu --ops=gla`: gated linear attention by chunks, on one thread.

    python -m benchmarks.peer_gla B,T,H,K,V

The chunkwise form of the paper (https://arxiv.org/abs/2312.06635, section 4.2) with one level of tiles: exponentials of
prefix sums inside of a chunk, which overflow for strong decays, and matrix products. It is the fastest form in plain
PyTorch; the chunk is the faster of 32 and 64. No code was taken from others. Needs torch only.
"""

import sys

import torch

from benchmarks.peer import seconds, serve


def gla(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, chunk: int) -> torch.Tensor:
    """Gated linear attention of (B, H, T, channels), with T a multiple of the chunk."""
    batch, heads, tokens, keys = q.shape
    q, k, v, g = (x.reshape(batch, heads, -1, chunk, x.shape[-1]) for x in (q, k, v, g))
    prefix = g.cumsum(3)
    total = prefix[..., -1:, :]
    queries, leaving = q * prefix.exp() * keys**-0.5, k * (total - prefix).exp()
    added, fade = leaving.mT @ v, total.exp().mT
    states = [torch.zeros_like(added[:, :, 0])]
    for n in range(tokens // chunk - 1):
        states.append(fade[:, :, n] * states[-1] + added[:, :, n])
    scores = (queries @ (k * (-prefix).exp()).mT).tril()
    o = scores @ v + queries @ torch.stack(states, 2)
    return o.reshape(batch, heads, tokens, -1)


def calls(shape: tuple[int, ...], chunk: int) -> dict:
    """Returns the functions to time, on B T H K arrays as in a layer."""
    batch, tokens, heads, keys, values = shape
    q, k, g = (torch.randn(batch, tokens, heads, keys) for _ in range(3))
    v, do = (torch.randn(batch, tokens, heads, values) for _ in range(2))
    g = torch.nn.functional.logsigmoid(g) / 16
    arrays = [x.requires_grad_() for x in (q, k, v, g)]
    more = -tokens % chunk

    def run() -> torch.Tensor:
        rows = (torch.nn.functional.pad(x.transpose(1, 2), (0, 0, 0, more)) for x in arrays)
        return gla(*rows, chunk)[:, :, :tokens].transpose(1, 2)

    def forward() -> None:
        with torch.inference_mode():
            run()

    def gradients() -> None:
        torch.autograd.grad(run(), arrays, do)

    return {'forward': forward, 'forward and gradients': gradients}


def main(shape: str) -> None:
    torch.set_num_threads(1)
    found = [calls(tuple(map(int, shape.split(','))), chunk) for chunk in (32, 64)]
    for each in found:
        for call in each.values():
            call()
    best = {kind: min((each[kind] for each in found), key=seconds) for kind in found[0]}
    serve(torch.__version__, best)


if __name__ == '__main__':
    main(*sys.argv[1:])

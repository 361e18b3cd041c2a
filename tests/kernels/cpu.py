"""Programs for CPUs alone, for tests that run networks and do not ask what other platforms would run."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax

# Part of jit's cache key: what is traced inside of `alone` is not what a test that lowers for a TPU gets.
_alone = jax.make_user_context(False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Traces of each op only what a CPU takes, the same as without; `jax.lax` traces every platform's branch.

    Gradients of networks are traced in half to three quarters of the time.
    """
    with mock.patch.object(jax.lax, 'platform_dependent', _on_a_cpu), _alone(True):
        yield


def _on_a_cpu(*args: Any, default: Callable[..., Any], **platforms: Callable[..., Any]) -> Any:
    return platforms.get('cpu', default)(*args)

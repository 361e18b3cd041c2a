"""Functions of native.cc, which are compiled where a program first needs them, and called through `jax.ffi`.

They are for CPUs, and optional: an op that has such a form chooses it by itself where the extra is installed (`pip
install "longview[cpu]"`), or where the environment variable LONGVIEW_CXX names a compiler (`LONGVIEW_CXX=g++`; empty:
none, also with the extra). The extra brings a compiler (Zig's, https://ziglang.org, MIT) for machines without `c++`,
whose code by GCC is up to three times as fast. Flags in CXXFLAGS are added. The library is kept in ~/.cache/longview
(XDG_CACHE_HOME), by what it is made from. All of this has to be set before a program is traced.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.ffi
import numpy as np

_SOURCE = pathlib.Path(__file__).with_name('native.cc')
_FUNCTIONS = ('convolve', 'kernel_gradient')
# C's library alone: the compiler's own library of C++ would have to be where the process runs.
_OPTIONS = ('-std=c++17', '-O2', '-fPIC', '-shared', '-fno-exceptions', '-fno-rtti')

# Whether forms in native code are left out; a part of jit's cache key.
_left_out = jax.make_user_context(False)


def compiler() -> tuple[str, ...]:
    """Returns the command of the compiler with its options, empty if none is to be used."""
    named = os.environ.get('LONGVIEW_CXX')
    if named is None and importlib.util.find_spec('ziglang') is not None:
        named = shutil.which('c++') or shlex.join((sys.executable, '-m', 'ziglang', 'c++', '-nostdlib++'))
    if not named:
        return ()
    return (*shlex.split(named), *_OPTIONS, *shlex.split(os.environ.get('CXXFLAGS', '')))


def enabled() -> bool:
    """Whether ops choose native code by themselves: there is a compiler, and nothing leaves the code out."""
    return bool(compiler()) and not _left_out.value


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Inside of the ``with`` no op chooses native code, so that a program can be written for other machines."""
    with _left_out(True):
        yield


def missing() -> str | None:
    """Returns why native code cannot run in this process, in words, or None; compiles it if that is yet to be done."""
    command = compiler()
    if not command:
        return 'no compiler is named; wanted `pip install "longview[cpu]"`, or LONGVIEW_CXX=g++ in the environment'
    return _registered(command)


@functools.cache
def _registered(command: tuple[str, ...]) -> str | None:
    """Compiles and registers the functions; returns why that failed, in words and as a warning, or None."""
    try:
        library = ctypes.CDLL(str(_compiled(command)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, 'stderr', None) or str(error)
        why = f'{command[0]} failed to compile {_SOURCE.name} ({" ".join(said.split()[-20:])})'
        warnings.warn(f'{why}; plain XLA runs instead: name another compiler in LONGVIEW_CXX, or none.', stacklevel=2)
        return why
    for name in _FUNCTIONS:
        handler = jax.ffi.pycapsule(getattr(library, f'longview_{name}'))
        jax.ffi.register_ffi_target(f'longview_{name}', handler, platform='cpu')
    return None


def _compiled(command: tuple[str, ...]) -> pathlib.Path:
    """Returns the path of the library; processes that compile it at the same time do not disturb each other."""
    words = (*command, jax.__version__, platform.machine(), _SOURCE.read_text())
    folder = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'longview'
    path = folder / f'native-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}.so'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            made = pathlib.Path(fresh) / path.name
            arguments = (f'-isystem{jax.ffi.include_dir()}', str(_SOURCE), '-o', str(made))
            subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
            made.replace(path)
    return path


def call(name: str, shape: tuple[int, ...], geometry: tuple[tuple[int, int], ...], *arrays: jax.Array) -> jax.Array:
    """Calls a function of native.cc.

    Args:
        name: one of its functions, without the prefix.
        shape: of the result, which has four dimensions and is float32.
        geometry: what `Geometry` has there, for rows and columns: strides, dilations, zeros before, distances.
        arrays: the arguments, float32; it cannot be differentiated or mapped.
    """
    # Inside of `jax.shard_map` the result varies over the axes that the first argument varies over.
    run: Any = jax.ffi.ffi_call(f'longview_{name}', jax.typeof(arrays[0]).update(shape=shape))
    return run(*arrays, geometry=np.asarray(geometry, np.int64).ravel())

"""Strict by default: eight forced CPU devices, warnings are errors, ranks never broadcast silently, shapes are checked."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
# libtpu compiles ahead of time for TPUs on this host; several test processes may load it at once.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')

from jaxtyping import install_import_hook

import tests.typecheck  # the hook looks it up by name

# Checks every annotation of our own code, in the tests only.
install_import_hook(['kernels', 'modelzoo', 'methods', 'runtime', 'data', 'input_pipeline'], 'tests.typecheck.typecheck')

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(__file__).parents[1] / '.cache' / 'xla'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

"""Runs of several processes: starts `jax.distributed` in a cluster, or when the command line asks for it."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects to the other processes, if there are any; has to be called before anything else uses a device.

    Args:
        coordinator: ``host:port`` of process 0; requires the other two arguments.
        num_processes, process_id: the number of processes, and the index of this one.

    Raises:
        ValueError: only some of the three are given.
    """
    asked = [coordinator, num_processes, process_id]
    if any(value is not None for value in asked):
        if any(value is None for value in asked):
            raise ValueError(
                '--coordinator, --num_processes and --process_id belong together: give all three, or '
                'none of them to let jax find the cluster.'
            )
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif cluster(os.environ, on_tpu_vm()):
        jax.distributed.initialize()


def cluster(env: Mapping[str, str], tpu_vm: bool) -> str | None:
    """Names the cluster of several processes that the environment describes, or None.

    A Cloud TPU VM learns about its pod only from the metadata server, which jax asks; a VM that is a whole slice then
    runs as a cluster of one. Colab's TPU VMs have no such server.
    """
    if 'MEGASCALE_COORDINATOR_ADDRESS' in env or ',' in env.get('TPU_WORKER_HOSTNAMES', ''):
        return 'TPU pod'
    alone = {'TPU_WORKER_HOSTNAMES', 'TPU_SKIP_MDS_QUERY', 'COLAB_RELEASE_TAG'} & env.keys()
    if tpu_vm and not alone:
        return 'Cloud TPU'
    if 'SLURM_JOB_ID' in env and int(env.get('SLURM_NTASKS', '1')) > 1:
        return 'Slurm'
    if 'KUBERNETES_SERVICE_HOST' in env and 'JOB_COMPLETION_INDEX' in env:
        return 'Kubernetes'
    return None


def on_tpu_vm() -> bool:
    """Whether this machine has a TPU and the library to use it."""
    devices = (pathlib.Path('/dev/accel0'), pathlib.Path('/dev/vfio/0'))
    return importlib.util.find_spec('libtpu') is not None and any(d.exists() for d in devices)


def from_first(text: str) -> str:
    """Returns the text of process 0 on all processes; the texts of the others are ignored."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    own = data if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8)).decode()

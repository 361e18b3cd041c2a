"""Several processes, one run: `jax.distributed` is started where a cluster is found, or when asked."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping

import jax


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes, if there are any; must come before anything else touches a device.

    Args:
        coordinator: ``host:port`` of process 0; with it, the other two are needed as well.
        num_processes, process_id: how many processes, and which one this is.

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

    A Cloud TPU VM knows its pod only through the metadata server, which jax asks; a VM that is the
    whole slice then runs as a cluster of one. Colab's TPU VMs have no such server.
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

"""Several processes that train together, through JAX's multi-controller runtime."""

import os

import jax

from common_flax.checks import check_positive


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of its run; call it before anything runs on a device.

    Without arguments, the values come from SLURM, Open MPI or GKE if one of them started the processes; otherwise the
    process trains alone.

    Args:
        coordinator: HOST:PORT of the first process; or "auto", with which JAX finds all three values, for example from
            Google's metadata server on a Cloud TPU pod.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.

    Raises:
        ValueError: some of the three are missing, they do not fit each other, or the processes cannot connect.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if coordinator == "auto":
        if len(missing) < 2:
            raise ValueError("coordinator 'auto' finds num_processes and process_id; leave them out")
        coordinator, missing = None, list(given)
    elif len(missing) == 3 and not started_by_a_cluster():
        return
    if 0 < len(missing) < 3:
        raise ValueError(f"coordinator, num_processes and process_id go together; {missing[0]} is missing")
    if num_processes is not None and process_id is not None:
        check_positive("num_processes", num_processes)
        if not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be from 0 to {num_processes - 1}; given {process_id}")
    # All three values are enough; JAX would still ask Kubernetes' API, which needs another library and a permission.
    detection = "deactivate" if not missing and "KUBERNETES_SERVICE_HOST" in os.environ else None
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, cluster_detection_method=detection)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes did not find each other: {str(error).splitlines()[0]}") from None


def started_by_a_cluster() -> bool:
    """True if the environment says that this is one of several processes."""
    environment = os.environ
    return (
        (int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )

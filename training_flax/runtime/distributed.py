"""Several processes that train together, by JAX's own multi-controller runtime."""

import os

import jax

from common_flax.checks import check_positive


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several, if it is; must come before anything runs on a device.

    What is not given is found where SLURM, Open MPI or GKE started the processes. Alone, nothing is done.

    Args:
        coordinator: HOST:PORT of the first process; or "auto", to ask JAX for all three, as on a Cloud TPU pod, whose
            hosts know each other from Google's metadata server.
        num_processes: how many there are.
        process_id: which this is, from 0.

    Raises:
        ValueError: only some of the three are given, they do not fit each other, or the others do not come.
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
    # Kubernetes adds nothing to all three, and JAX would ask its API, by a library and a permission of its own.
    detection = "deactivate" if not missing and "KUBERNETES_SERVICE_HOST" in os.environ else None
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, cluster_detection_method=detection)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes did not find each other: {str(error).splitlines()[0]}") from None


def started_by_a_cluster() -> bool:
    """Whether the environment says that this is one of several processes."""
    environment = os.environ
    return (
        (int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )

"""Several processes that train together, through JAX's multi-controller runtime."""

import ipaddress
import os
import re
import socket
import time

import jax

from common_flax.checks import check_positive
from common_flax.terminal import complain
from training_flax.runtime.lost_processes import HEARTBEAT, watch

SECONDS_FOR_A_NAME = 60.0  # a new pod of Kubernetes has its name a while after its start


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    show_all: bool = False,
) -> None:
    """Connects this process with the others of its run; call it before anything runs on a device.

    Without arguments, the values come from SLURM, Open MPI or GKE if one of them started the processes; otherwise the
    process trains alone. The first process listens on the coordinator's address alone, see `listening_address`. If one
    of them dies later, the others end within twenty seconds, see `lost_processes`.

    Args:
        coordinator: HOST:PORT of the first process, [HOST]:PORT for IPv6; or "auto", with which JAX finds all three
            values, for example from Google's metadata server on a Cloud TPU pod.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.
        show_all: show also what JAX's runtime prints where a process has died.

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
    if coordinator is not None:
        _host_and_port(coordinator)
    bind = listening_address(coordinator) if coordinator is not None and process_id == 0 else None
    # All three values are enough; JAX would still ask Kubernetes' API, which needs another library and a permission.
    detection = "deactivate" if not missing and "KUBERNETES_SERVICE_HOST" in os.environ else None
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method=detection,
            coordinator_bind_address=bind,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes did not find each other: {str(error).splitlines()[0]}") from None
    watch(show_all=show_all)


def listening_address(coordinator: str) -> str | None:
    """Returns the address of this machine on which the first process listens: that of the coordinator's host.

    JAX by itself listens on all addresses, and asks nobody for a password.

    Args:
        coordinator: HOST:PORT, with a name or an address as HOST.

    Returns:
        ADDRESS:PORT, or HOST:PORT for a name of several addresses of this machine. None leaves JAX's choice, of which a
        line on stderr tells: the host is none of this machine's addresses, as behind a translation of addresses; or it
        is a name that means this machine alone, as many systems enter their own, while others know another address.

    Raises:
        ValueError: this is no HOST:PORT, or the name is not known after a minute.
    """
    host, port = _host_and_port(coordinator)
    found = _addresses(host)
    mine = [address for address in found if _is_mine(address)]
    everywhere = "listening on all addresses; name one of this machine's to listen on it alone"
    if not mine:
        complain(f"coordinator {host} is {', '.join(found)}, which this machine does not have: {everywhere}")
        return None
    loopback = all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in mine)
    if loopback and host not in found and host.lower() != "localhost":
        complain(f"coordinator {host} is {', '.join(mine)} here, which no other machine can reach: {everywhere}")
        return None
    if len(mine) > 1:
        return f"{host}:{port}"
    return f"[{mine[0]}]:{port}" if ":" in mine[0] else f"{mine[0]}:{port}"


def _host_and_port(coordinator: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/\[\]]+)):([0-9]{1,5})", coordinator)
    if match is None or not 0 < int(match[3]) < 2**16:
        raise ValueError(f"coordinator must be HOST:PORT, such as host0:1234 or [fd00::1]:1234; given {coordinator!r}")
    return match[1] or match[2], int(match[3])


def _addresses(host: str) -> list[str]:
    """Returns the addresses of a name; waits for a name that is not known yet."""
    end = time.monotonic() + SECONDS_FOR_A_NAME
    while True:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found))
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                raise ValueError(f"coordinator {host!r} is not known: {error}") from None
            time.sleep(1)


def _is_mine(address: str) -> bool:
    """True if this machine has an address, so that a process here can listen on it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def started_by_a_cluster() -> bool:
    """True if the environment says that this is one of several processes."""
    environment = os.environ
    return (
        (int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )

"""Accelerators that need not be there: their compilers' descriptions, and their published peaks."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Chip:
    """Published peaks of a chip.

    Attributes:
        flops: operations a second in bfloat16.
        bandwidth: bytes a second of its memory.
        links: bytes a second to other chips, all links in one direction together.
        memory: bytes.
    """

    flops: float
    bandwidth: float
    links: float
    memory: float


CHIPS = {
    "v4": Chip(275e12, 1228e9, 300e9, 32e9),
    "v5e": Chip(197e12, 819e9, 200e9, 16e9),
    "v5p": Chip(459e12, 2765e9, 600e9, 95e9),
    "v6e": Chip(918e12, 1640e9, 448e9, 32e9),
    "cuda": Chip(989e12, 3352e9, 450e9, 80e9),  # H100 SXM
}
# No look for an attached accelerator nor for Google's metadata server, and no lock between processes.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
ENVIRONMENT |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}
GPU = Path(__file__).with_name("h100.txtpb")


def chip_of(topology: str) -> Chip:
    """Returns the peaks of a topology's chips.

    Raises:
        ValueError: the topology is none that is known.
    """
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+" if kind == "cuda" else r"\d+(x\d+)+", shape):
        raise ValueError(f"topology must be like v5e:2x4, of {', '.join(CHIPS)}, or cuda:8; given {topology!r}")
    return CHIPS[kind]


def devices_of(topology: str) -> Sequence[Any]:
    """Returns the devices of a topology such as "v5e:2x4" or "cuda:8", for which JAX compiles.

    Set `ENVIRONMENT` before JAX starts. TPUs need libtpu (the extra [tpu-compiler]), GPUs JAX's plugin for CUDA.

    Raises:
        ValueError: the topology is none that is known, or its compiler is not installed.
    """
    from jax.experimental import topologies

    chip_of(topology)
    kind, _, shape = topology.partition(":")
    if kind == "cuda":
        options: dict[str, Any] = dict(platform="cuda", target_config=GPU.read_text(), topology=f"1x1x{shape}")
    else:
        alone = {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
        options = dict(platform="tpu", topology_name=topology, **alone)
    try:
        return topologies.get_topology_desc(**options).devices
    except (RuntimeError, ImportError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"there is no compiler for {topology!r}: {reason}") from None


def environment() -> dict[str, str]:
    """Returns this process's environment, with what compiling for absent chips needs."""
    return {**os.environ, **ENVIRONMENT}

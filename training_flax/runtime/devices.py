"""The devices of a run: how arrays are placed on them, and how functions are mapped over them."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from layers_flax.autodiff.backend import backend

AXIS = "data"
THREADS_PER_VIRTUAL_DEVICE = 16


def let_virtual_devices_meet() -> None:
    """Gives the CPU client enough threads for all virtual devices that XLA_FLAGS asks for; call it before JAX starts.

    On a CPU a collective holds a thread until all devices have joined, and a device runs independent collectives in
    parallel. With the default, one thread per core or device, the collectives of some devices can hold every thread
    and wait for the other devices for ever: XLA then ends the process ("only 2 of them arrived on time").
    """
    count = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if count and int(count[1]) > 1 and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(THREADS_PER_VIRTUAL_DEVICE * int(count[1])))


class Devices:
    """The devices of a run, by default all of all processes, on one mesh axis over which batches are sharded.

    On CPUs, with `parallel="jit"` and global statistics, a step is one program over sharded arrays, written as for one
    device. Otherwise each device runs its own program, and the devices average statistics and gradients: under `pmap`,
    or under `jit` by `shard_map`. On accelerators XLA would add gradients in bfloat16, where the network computes in
    it. State and metrics are replicated arrays either way.

    Args:
        parallel: "jit" or "pmap".
        batch_norm: "global", statistics over the whole batch, or "local", over each device's share of it.
        shard_state: shard the optimizer's state and the averaged weights over the devices.
        devices: the devices; those of a topology that is not attached can be compiled for, see
            `layers_flax.target_backend`.
        each_device: let each device run its own program in any case.

    Raises:
        ValueError: the arguments contradict each other, or do not work with several processes.
    """

    def __init__(
        self,
        parallel: str = "jit",
        batch_norm: str = "global",
        shard_state: bool = False,
        devices: Sequence[jax.Device] | None = None,
        *,
        each_device: bool = False,
    ):
        let_virtual_devices_meet()
        if shard_state and parallel == "pmap":
            raise ValueError(
                "shard_state needs parallel='jit': under pmap each device has the whole state; given 'pmap'"
            )
        if parallel == "pmap" and jax.process_count() > 1:
            raise ValueError(f"parallel='pmap' runs in one process; use 'jit' for the {jax.process_count()} given")
        self.parallel = parallel
        self.mesh = Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
        self.shard_state = shard_state
        each_device |= parallel == "pmap" or batch_norm == "local" or (backend() != "cpu" and not shard_state)
        self.axis_name = AXIS if each_device else None  # for the training step
        self.model_axis_name = AXIS if each_device and batch_norm == "global" else None  # for the step's network
        self.replicated = NamedSharding(self.mesh, P())
        self.spread = NamedSharding(self.mesh, P(AXIS))
        self.gather = jax.jit(lambda tree: tree, out_shardings=self.replicated)  # replicates a sharded tree

    @property
    def count(self) -> int:
        """The number of devices of all processes."""
        return self.mesh.size

    def state_sharding(self, state: Any) -> Any:
        """Returns the sharding of each leaf of a `TrainState` of arrays or shapes."""

        def largest_axis(leaf: Any) -> NamedSharding:
            axes = [i for i, size in enumerate(leaf.shape) if size % self.count == 0 and size >= self.count]
            if not axes:
                return self.replicated
            axis = max(axes, key=lambda i: leaf.shape[i])
            return NamedSharding(self.mesh, P(*[None] * axis, AXIS))

        shardings = jax.tree.map(lambda leaf: self.replicated, state)
        if self.shard_state:
            spread = {name: jax.tree.map(largest_axis, getattr(state, name)) for name in ("opt_state", "ema")}
            shardings = shardings._replace(**spread)
        return shardings

    def replicate(self, tree: Any) -> Any:
        """Puts host arrays, the same in every process, on every device."""
        return jax.tree.map(lambda leaf: self._put(np.asarray(leaf), self.replicated), tree)

    def rows(self, batch_size: int) -> slice:
        """Returns the rows of a batch that this process provides."""
        share = batch_size // jax.process_count()
        return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def put_rows(self, tree: Any, *, mapped: bool = False) -> Any:
        """Shards host arrays of this process's rows, (rows, …), over the devices.

        `mapped` is for batches of the training step: under pmap they have a leading axis of devices.
        """
        fold = mapped and self.parallel == "pmap"
        return jax.tree.map(lambda leaf: self._put(self._fold(leaf) if fold else leaf, self.spread), tree)

    def map_step(self, step: Callable[..., Any], shapes: tuple[Any, Any, Any]) -> Any:
        """Maps and lowers the training step (state, split, batch) → (state, metrics) for arguments of `shapes`.

        `shapes` has the shapes of one process's rows, as `put_rows` takes them. The step donates its state's buffers.
        """
        state, split, batch = shapes
        if self.parallel == "pmap":
            on = list(self.mesh.devices.flat)
            mapped = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0, devices=on)
            by_device = jax.eval_shape(lambda tree: jax.tree.map(self._fold, tree), batch)
            return mapped.lower(state, split, by_device)
        if self.axis_name is not None:
            step = jax.shard_map(
                step, mesh=self.mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P(), axis_names={AXIS}, check_vma=False
            )
        shardings = (self.state_sharding(state), self.replicated, self.spread)
        jitted = jax.jit(step, in_shardings=shardings, out_shardings=shardings[:2], donate_argnums=0)
        return jitted.lower(state, split, jax.tree.map(self._whole, batch))

    def map_rows(self, function: Callable[..., Any], shapes: tuple[Any, Any, Any]) -> Any:
        """Lowers a function (state or variables, split, batch) → results, replicated to every process."""
        first, split, batch = shapes
        shardings = (None, self.replicated, self.spread)
        jitted = jax.jit(function, in_shardings=shardings, out_shardings=self.replicated)
        return jitted.lower(first, split, jax.tree.map(self._whole, batch))

    def _fold(self, leaf: Any) -> Any:
        """Adds a leading axis of devices."""
        return leaf.reshape(self.count, -1, *leaf.shape[1:])

    def _whole(self, leaf: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape of a whole array from that of one process's rows."""
        return jax.ShapeDtypeStruct((leaf.shape[0] * jax.process_count(), *leaf.shape[1:]), leaf.dtype)

    def _put(self, leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        with jax.transfer_guard("allow"):  # the one place where several processes put arrays on their devices
            return jax.make_array_from_process_local_data(sharding, leaf)

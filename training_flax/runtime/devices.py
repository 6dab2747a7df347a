"""How arrays lie on the devices of a run, and how its functions are mapped over them."""

import os
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
THREADS_PER_VIRTUAL_DEVICE = 16


def let_virtual_devices_meet() -> None:
    """Gives the CPU client threads enough for all the virtual devices that XLA_FLAGS asks for, before it starts.

    On a CPU a collective holds a thread until all devices have joined it, and a device runs independent collectives
    side by side. With the default of a thread for each core or device, those of some devices can take every thread
    and wait for the others' for ever: XLA then ends the process ("only 2 of them arrived on time").
    """
    count = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if count and int(count[1]) > 1 and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(THREADS_PER_VIRTUAL_DEVICE * int(count[1])))


class Devices:
    """All devices of all processes, on one mesh axis, over which batches are spread.

    With `parallel="jit"` and global statistics a step is one program over sharded arrays, the same text as for one
    device. Otherwise it is a program for each device, whose members average their gradients: by `pmap`, or under
    `jit` by `shard_map`. State and metrics are replicated arrays either way.

    Args:
        parallel: "jit" or "pmap".
        batch_norm: "global", statistics over the whole batch, or "local", over each device's part.
        shard_state: spread the optimiser's state and the average of the weights over the devices.

    Raises:
        ValueError: what was asked for does not go together, or not with several processes.
    """

    def __init__(self, parallel: str = "jit", batch_norm: str = "global", shard_state: bool = False):
        let_virtual_devices_meet()
        if shard_state and parallel == "pmap":
            raise ValueError(
                "shard_state needs parallel='jit': under pmap each device has the whole state; given 'pmap'"
            )
        if parallel == "pmap" and jax.process_count() > 1:
            raise ValueError(f"parallel='pmap' runs in one process; use 'jit' for the {jax.process_count()} given")
        self.parallel = parallel
        self.mesh = Mesh(np.array(jax.devices()), (AXIS,))
        self.shard_state = shard_state
        each_device = parallel == "pmap" or batch_norm == "local"
        self.axis_name = AXIS if each_device else None  # of a step
        self.model_axis_name = AXIS if each_device and batch_norm == "global" else None  # of the network in it
        self.replicated = NamedSharding(self.mesh, P())
        self.spread = NamedSharding(self.mesh, P(AXIS))
        self.gather = jax.jit(lambda tree: tree, out_shardings=self.replicated)  # a tree of arrays, whole everywhere

    @property
    def count(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

    def state_sharding(self, state: Any) -> Any:
        """The sharding of each leaf of a `TrainState` of arrays or shapes."""

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
        """Host arrays, the same in every process, on every device."""
        return jax.tree.map(lambda leaf: self._put(np.asarray(leaf), self.replicated), tree)

    def rows(self, batch_size: int) -> slice:
        """The examples of a batch that this process provides."""
        share = batch_size // jax.process_count()
        return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def put_rows(self, tree: Any, *, mapped: bool = False) -> Any:
        """Host arrays of this process's rows, (rows, …), spread over the devices.

        `mapped` is for what the training step takes: under pmap it has an axis of the devices before its own.
        """
        fold = mapped and self.parallel == "pmap"

        def put(leaf: np.ndarray) -> jax.Array:
            return self._put(leaf.reshape(self.count, -1, *leaf.shape[1:]) if fold else leaf, self.spread)

        return jax.tree.map(put, tree)

    def map_step(self, step: Callable[..., Any], shapes: tuple[Any, Any, Any]) -> Any:
        """The training step (state, part, batch) → (state, metrics), mapped and lowered for arguments of `shapes`.

        `shapes` are those of one process's whole batch, as `put_rows` takes it. The state's memory is given on.
        """
        state, part, batch = shapes
        if self.parallel == "pmap":
            mapped = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)
            split = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (self.count, leaf.shape[0] // self.count, *leaf.shape[1:]), leaf.dtype
                ),
                batch,
            )
            return mapped.lower(state, part, split)
        if self.axis_name is not None:
            step = jax.shard_map(
                step, mesh=self.mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P(), axis_names={AXIS}, check_vma=False
            )
        sharding = self.state_sharding(state)
        whole = jax.tree.map(lambda leaf: self._whole(leaf), batch)
        return jax.jit(
            step,
            in_shardings=(sharding, self.replicated, self.spread),
            out_shardings=(sharding, self.replicated),
            donate_argnums=0,
        ).lower(state, part, whole)

    def map_rows(self, function: Callable[..., Any], shapes: tuple[Any, Any, Any]) -> Any:
        """A function (state or variables, part, batch) → results that every process gets whole, lowered."""
        first, part, batch = shapes
        return jax.jit(
            function, in_shardings=(None, self.replicated, self.spread), out_shardings=self.replicated
        ).lower(first, part, jax.tree.map(lambda leaf: self._whole(leaf), batch))

    def _whole(self, leaf: Any) -> jax.ShapeDtypeStruct:
        """The global shape of what each process has its rows of."""
        return jax.ShapeDtypeStruct((leaf.shape[0] * jax.process_count(), *leaf.shape[1:]), leaf.dtype)

    def _put(self, leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        with jax.transfer_guard("allow"):  # the one place where several processes put arrays on their devices
            return jax.make_array_from_process_local_data(sharding, leaf)

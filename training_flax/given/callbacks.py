"""Callbacks: objects of the user's that see a run as it trains, and may stop it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from layers_flax import Network
from resnet_flax import unstack_blocks
from training_flax.given.names import qualified_name
from training_flax.learn.state import TrainState
from training_flax.runtime.devices import Devices
from training_flax.runtime.users_code import users_code

EVENTS = ("on_step", "on_epoch", "on_checkpoint")


@dataclass(frozen=True)
class RunView:
    """A run at one moment, as a callback sees it; nothing in it changes the run.

    Attributes:
        step: steps taken so far.
        epoch: the epoch of this step, from 1.
        total_steps, epochs: those of the whole run.
        metrics: numbers by name. After a step "loss", "accuracy", "gradient_norm" of its batch, and "learning_rate" of
            the config's schedule; after an epoch, and with a checkpoint, "train_loss" and "train_accuracy", means over
            the epoch, and "test_loss" and "test_accuracy", of the averaged weights if there are any; with a validation
            part these are "validation_loss" and "validation_accuracy". Of images with several classes there is the
            mean average precision too, such as "test_mean_average_precision". What a run that has just resumed does not
            know is left out; a loss that is not finite is NaN.
        run: the run's folder.
        checkpoint: the folder of the checkpoint that was just written; None in other events.
        model: the network, for `view.model.apply(view.variables, images, train=False)`.
    """

    step: int
    epoch: int
    total_steps: int
    epochs: int
    metrics: Mapping[str, float]
    run: Path
    checkpoint: Path | None
    model: Network = field(repr=False)
    _state: Callable[[], TrainState] = field(repr=False)
    _devices: Devices = field(repr=False)

    @property
    def state(self) -> TrainState:
        """A copy of the training state, of NumPy's arrays; the blocks of a stage may be stacked. Made when asked for.

        Raises RuntimeError if it is asked for after the callback has returned: the next step gives its memory away.
        """
        return _on_host(self._state(), self._devices)

    @property
    def variables(self) -> dict[str, Any]:
        """A copy of the network's {"params", "batch_stats"}, of NumPy's arrays; the rest is as for `state`."""
        state = self._state()
        return unstack_blocks(_on_host({"params": state.params, "batch_stats": state.batch_stats}, self._devices))

    @property
    def averaged(self) -> dict[str, Any] | None:
        """A copy as `variables` of the averaged weights; None if the run has none."""
        ema = self._state().ema
        return None if ema is None else unstack_blocks(_on_host(ema, self._devices))


def _on_host(tree: Any, devices: Devices) -> Any:
    """Copies arrays to the host. Of one CPU `device_get` would give the device's memory itself."""

    def copied(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jax.numpy.array(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return np.array(jax.device_get(leaf))

    return jax.tree.map(copied, devices.gather(tree) if devices.shard_state else tree)


class OnStep(Protocol):
    """A callback that is called after every step."""

    def on_step(self, view: RunView, /) -> bool | None:
        """Sees the run after a step; returns True to stop it."""


class OnEpoch(Protocol):
    """A callback that is called after every epoch's evaluation."""

    def on_epoch(self, view: RunView, /) -> bool | None:
        """Sees the run after an evaluation; returns True to stop it."""


class OnCheckpoint(Protocol):
    """A callback that is called when a checkpoint is on the disk."""

    def on_checkpoint(self, view: RunView, /) -> bool | None:
        """Sees the run, and the checkpoint's folder; returns True to stop it."""


Callback: TypeAlias = OnStep | OnEpoch | OnCheckpoint
"""An object with any of the methods `on_step`, `on_epoch`, `on_checkpoint`. Each takes a `RunView`; True stops the run,
which then evaluates and writes its results as at its end, and is finished."""


def check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Returns the callbacks; raises ValueError if one is none, with the nearest name of a method."""
    if isinstance(callbacks, Mapping | str) or not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks must be a list of objects; given {callbacks!r:.60}")
    checked = tuple(callbacks)
    for callback in checked:
        name = qualified_name(callback)
        if isinstance(callback, type):
            raise ValueError(f"callbacks must be objects; {name} is a class: give {callback.__name__}(…)")
        if not any(callable(getattr(callback, event, None)) for event in EVENTS):
            methods = [method for method in dir(callback) if method.startswith("on_")]
            near = [(method, *get_close_matches(method, EVENTS, 1, 0.4)) for method in methods]
            hint = next((f": {pair[0]} is called {pair[1]} here" for pair in near if len(pair) == 2), "")
            raise ValueError(f"callback {name} must have any of the methods {', '.join(EVENTS)}{hint}")
    return checked


class Callbacks:
    """Calls a user's callbacks, in their order.

    Args:
        callbacks: the callbacks.
        stopped_by: the name of the callback that has stopped the run already, before it was resumed.

    Attributes:
        on: the callbacks that want to know of each event, by its name.
        stopped_by: the name of the first callback that asked to stop; empty before.
    """

    def __init__(self, callbacks: tuple[Callback, ...], stopped_by: str = ""):
        self.on = {event: [c for c in callbacks if callable(getattr(c, event, None))] for event in EVENTS}
        self.stopped_by = stopped_by

    def call(self, event: str, state: TrainState, metrics: Mapping[str, float], **about: Any) -> None:
        """Calls the callbacks of an event with a `RunView`; their errors are marked as the user's."""
        current: list[TrainState] = [state]

        def now() -> TrainState:
            if not current:
                raise RuntimeError("the state of a RunView can be read within the callback only: keep a copy of it")
            return current[0]

        view = RunView(metrics=MappingProxyType(dict(metrics)), _state=now, **about)
        try:
            for callback in self.on[event]:
                with users_code():
                    asked = getattr(callback, event)(view)
                    stop = asked is not None and bool(asked)
                if stop and not self.stopped_by:
                    self.stopped_by = qualified_name(callback)
        finally:
            current.clear()

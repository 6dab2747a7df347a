"""The parts of a run that a user passed to `fit` beside the data, checked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import optax

from training_flax.config.config import OF_OPTIMIZER, TrainConfig
from training_flax.given.callbacks import Callback, check_callbacks
from training_flax.given.names import optimizer_name, qualified_name
from training_flax.learn.steps import Loss


@dataclass(frozen=True)
class Own:
    """A user's own parts of a run; None or empty where the config's are taken.

    Attributes:
        loss: (logits, targets) → losses, see `make_train_step`.
        optimizer: any of Optax's; learning rate and schedule are its own.
        callbacks: see `Callback`.
    """

    loss: Loss | None = None
    optimizer: optax.GradientTransformation | None = None
    callbacks: tuple[Callback, ...] = ()

    @property
    def unused(self) -> tuple[str, ...]:
        """The names of the config's options that do not apply."""
        return (*(("loss",) if self.loss else ()), *(OF_OPTIMIZER if self.optimizer else ()))

    def names(self, params: Any) -> dict[str, str]:
        """Returns the entries of config.json that tell loss and optimizer from others; those of the config have none.

        Raises ValueError if the optimizer does not take the parameters `params`, given by their shapes.
        """
        names = {} if self.loss is None else {"own_loss": qualified_name(self.loss)}
        return names if self.optimizer is None else names | {"own_optimizer": optimizer_name(self.optimizer, params)}


def check_own(loss: object, optimizer: object, callbacks: Iterable[Callback]) -> Own:
    """Returns a user's parts of a run; raises ValueError, which names it, if one is something else."""
    if loss is not None and (not callable(loss) or isinstance(loss, type)):
        raise ValueError(f"loss must be a function (logits, targets) → losses; given {loss!r:.60}")
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        call = f": call it, as in {optimizer.__name__}(1e-3)" if hasattr(optimizer, "__name__") else ""
        raise ValueError(f"optimizer must be an optax.GradientTransformation; given {optimizer!r:.60}{call}")
    return Own(loss, optimizer, check_callbacks(callbacks))


def check_options(config: TrainConfig, own: Own) -> None:
    """Raises ValueError for an option that changes the config's loss or optimizer, where the user passed another."""
    if own.loss is not None and config.class_weights is not None:
        raise ValueError(
            f"class_weights are for the losses of the config; weigh the classes in your own loss; given "
            f"{config.class_weights!r}"
        )
    if own.optimizer is not None and config.layer_decay not in (None, 1):
        raise ValueError(
            "layer_decay is for the optimizers of the config; scale the updates in your own, as by "
            f"optax.multi_transform; given {config.layer_decay}"
        )


def applicable(config: TrainConfig, *, loss: object, optimizer: object) -> TrainConfig:
    """Returns the config without the options that a loss or an optimizer of the user's stands in for."""
    unused: dict[str, Any] = dict.fromkeys(() if optimizer is None else OF_OPTIMIZER)
    return replace(config, **unused | ({} if loss is None else {"loss": None}))

"""The optimizers that a config may name, all from Optax, and the meaning of a config's options for each."""

from typing import NamedTuple


class Optimizer(NamedTuple):
    """The properties of an optimizer.

    Attributes:
        decay: "gradient" if weight decay is added to the gradient, as by PyTorch's SGD and Adam; "weights" if it is
            decoupled: it shrinks the weights by learning rate times weight decay at each step, as by AdamW.
        momentum: the options momentum and nesterov are used.
        elementwise: each number's update follows from its own gradients alone, not from the rest of its array.
    """

    decay: str
    momentum: bool = False
    elementwise: bool = True


OPTIMIZERS = {
    "sgd": Optimizer("gradient", momentum=True),
    "rmsprop": Optimizer("gradient", momentum=True),
    "adagrad": Optimizer("gradient"),
    "adadelta": Optimizer("gradient"),
    "adam": Optimizer("gradient"),
    "adamax": Optimizer("gradient"),
    "amsgrad": Optimizer("gradient"),
    "nadam": Optimizer("gradient"),
    "radam": Optimizer("gradient"),
    "adabelief": Optimizer("gradient"),
    "yogi": Optimizer("gradient"),
    "adamw": Optimizer("weights"),
    "adamaxw": Optimizer("weights"),
    "nadamw": Optimizer("weights"),
    "adan": Optimizer("weights"),
    "lion": Optimizer("weights"),
    "lars": Optimizer("gradient", momentum=True, elementwise=False),
    "lamb": Optimizer("weights", elementwise=False),
    "novograd": Optimizer("weights", elementwise=False),
    "adafactor": Optimizer("weights", elementwise=False),
}
IGNORE_MOMENTUM = ("adamw", "lamb")
"""Optimizers that pass over a momentum that is given, as they did when there were three; others refuse it."""


def check_momentum(optimizer: str, momentum: float | None, nesterov: bool | None) -> None:
    """Raises ValueError if the user gives a momentum to an optimizer that has none, or one of its own."""
    for name, value in (("momentum", momentum), ("nesterov", nesterov)):
        if value and not OPTIMIZERS[optimizer].momentum and optimizer not in IGNORE_MOMENTUM:
            having = ", ".join(other for other, about in OPTIMIZERS.items() if about.momentum)
            raise ValueError(f"{name} is for {having}; {optimizer} keeps Optax's own values; given {value}")

"""The works that the contenders are timed at: a network, a batch, training or inference."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

# Deep networks, which are measured for their compile time, without peers.
ALONE = ("resnet110", "resnet1202")
SMALL = ("resnet20", "resnet32", "resnet44", "resnet56", "densenet_bc_100_12", *ALONE)


@dataclass(frozen=True)
class Work:
    """One program that all contenders run.

    Attributes:
        arch: name of the architecture.
        batch: number of images.
        train: True for forward, backward and an update by SGD with momentum, BatchNorm in training mode; False for
            logits.
    """

    arch: str
    batch: int
    train: bool

    @property
    def name(self) -> str:
        return f"{self.arch} {'train' if self.train else 'infer'} b{self.batch}"

    @property
    def small(self) -> bool:
        """True for images of 32×32 pixels and 10 classes, False for 224×224 and 1000."""
        return self.arch in SMALL

    @property
    def pixels(self) -> int:
        return 32 if self.small else 224

    @property
    def classes(self) -> int:
        return 10 if self.small else 1000

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws images (batch, height, width, 3), float32, and labels (batch,), int32."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((self.batch, self.pixels, self.pixels, 3)).astype(np.float32)
        return images, rng.integers(0, self.classes, self.batch).astype(np.int32)


def compiled_facts(compiled: Any, began: float) -> dict[str, float]:
    """Returns seconds since `began`, and XLA's temporary memory in MB."""
    seconds = time.perf_counter() - began
    return {"compile_seconds": seconds, "temp_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6}


TRAINED = {"resnet50": 8, "densenet121": 8, "resnet20": 128, "resnet56": 128, "densenet_bc_100_12": 64}
TRAINED |= {"resnet110": 128, "resnet1202": 32}
WORKS = (
    *(Work(arch, batch, train=True) for arch, batch in TRAINED.items()),
    *(Work(arch, batch, train=False) for arch in ("resnet50", "densenet121") for batch in (8, 1)),
)

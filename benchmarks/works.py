"""What is timed: a network, a batch, and whether it trains."""

from dataclasses import dataclass

# Deep networks, of which the time to compile is asked: the peers are not run at them.
ALONE = ("resnet110", "resnet1202")
SMALL = ("resnet20", "resnet32", "resnet44", "resnet56", "densenet_bc_100_12", *ALONE)


@dataclass(frozen=True)
class Work:
    """One program that ours and the peers run.

    Attributes:
        arch: name of the architecture.
        batch: images at once.
        train: forward, backward and an update by SGD with momentum, BatchNorm in training mode; or else logits alone.
    """

    arch: str
    batch: int
    train: bool

    @property
    def name(self) -> str:
        return f"{self.arch} {'train' if self.train else 'infer'} b{self.batch}"

    @property
    def small(self) -> bool:
        """Images of 32×32 pixels and 10 classes, and not of 224×224 and 1000."""
        return self.arch in SMALL

    @property
    def pixels(self) -> int:
        return 32 if self.small else 224

    @property
    def classes(self) -> int:
        return 10 if self.small else 1000


WORKS = (
    Work("resnet50", 8, True),
    Work("densenet121", 8, True),
    Work("resnet20", 128, True),
    Work("resnet56", 128, True),
    Work("densenet_bc_100_12", 64, True),
    Work("resnet110", 128, True),
    Work("resnet1202", 32, True),
    Work("resnet50", 8, False),
    Work("resnet50", 1, False),
    Work("densenet121", 8, False),
    Work("densenet121", 1, False),
)

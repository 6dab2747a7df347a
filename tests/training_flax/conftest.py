"""A smaller ResNet-20 for tests of the trainer."""

import pytest

import resnet_flax.archs
from resnet_flax import ResNet


def one_block_a_stage(sizes, *args, **kwargs):
    """`ResNet`, where the three blocks of each stage of ResNet-20 are one."""
    return ResNet((1, 1, 1) if sizes == (3, 3, 3) else sizes, *args, **kwargs)


@pytest.fixture(autouse=True, scope="module")
def fewer_blocks(request):
    """Tracing and compiling ResNet-20 takes most of a test's time, and most need a network, not its depth.

    Files that need all nine blocks, or start processes that build them, say NINE_BLOCKS; single tests ask for
    `nine_blocks`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "NINE_BLOCKS", False):
            patch.setattr(resnet_flax.archs, "ResNet", one_block_a_stage)
        yield


@pytest.fixture
def nine_blocks(monkeypatch):
    """ResNet-20 as it is, for one test of a file whose others do with fewer blocks."""
    monkeypatch.setattr(resnet_flax.archs, "ResNet", ResNet)

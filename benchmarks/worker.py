"""One contender at one work, in its own process: `python -m benchmarks.worker ours resnet50 8 train`.

Prints a line of JSON when it is ready. For each line of input, a number of seconds, it then runs for at least that time
and prints the seconds of each run. Contenders: ours, naive, torch, torch channels_last, gemm (a product of 2048×2048
matrices).
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.works import Work


def gemm() -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns a product of matrices by XLA, twice 2048³ operations, whose speed we call the processor's peak."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((2048, 2048))
    product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
    return lambda: product(matrix, matrix).block_until_ready(), {}


def prepare(contender: str, work: Work) -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns the function that the contender runs; imports are local, since torch's environment has no JAX."""
    if contender == "gemm":
        return gemm()
    if contender.startswith("torch"):
        from benchmarks.peers import pytorch

        return pytorch.prepare(work, "channels_last" in contender)
    if contender == "naive":
        from benchmarks.peers import naive

        return naive.prepare(work)
    from benchmarks import ours

    return ours.prepare(work)


def main(contender: str, arch: str, batch: str, mode: str) -> None:
    run, facts = prepare(contender, Work(arch, int(batch), mode == "train"))
    run()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        seconds = []
        while not seconds or sum(seconds) < float(line):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_rss_mb": peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One GPU or TPU, checked and measured in ten minutes: `python -m benchmarks.on_device --out result.jsonl`.

Prints a line of JSON for each finding, and ends with exit code 1 if one is wrong:

1. logits and gradients of a network of each family beside the CPU's, in float32 and in bfloat16;
2. fifty steps of training of resnet20 and densenet121 on digits, whose loss must fall;
3. training speed of resnet50 and densenet121 in bfloat16 beside Flax by hand, and beside PyTorch with `torch.compile`,
   channels_last and mixed precision where torch sees the device: images a second, memory, and the share of what the
   chip's published peaks allow.

`--small` takes sizes for a CPU, to try the script.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.chips import CHIPS, Chip
from benchmarks.command_line import run_benchmark
from benchmarks.hlo import Program
from layers_flax import count_multiply_adds, target_backend
from training_flax import TrainConfig, build_model, fit, make_train_step, start_state
from training_flax.runtime.compilation import compiler_options

PROGRAM = "benchmarks.on_device"
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
# Distance to the CPU's float32, relative to the length of logits or gradients: in float32 sums in another order switch
# single ReLUs; in bfloat16 twice what the CPU's own bfloat16 differs.
FLOAT32, BFLOAT16 = 1e-3, 2.0
KINDS = {"H100": "cuda", "v4": "v4", "v5 lite": "v5e", "v5p": "v5p", "v6": "v6e"}
H200 = Chip(989e12, 4800e9, 450e9, 141e9)


@dataclass(frozen=True)
class Options:
    """Checks and measures this machine's accelerator."""

    small: bool = False
    """Small images, batches and networks, to try the script on a CPU."""
    rounds: int = 5
    """Turns of each contender."""
    out: Path | None = None
    """File for the lines, which are printed as well."""


def main(options: Options) -> None:
    """Runs all parts, and ends with exit code 1 if a finding is wrong."""
    findings = []
    parts = (correctness, training, speed)
    for finding in (each for part in parts for each in part(options)):
        findings.append(finding)
        print(json.dumps(finding), flush=True)
        if options.out is not None:
            options.out.write_text("".join(f"{json.dumps(each)}\n" for each in findings))
    raise SystemExit(int(not all(finding.get("ok", True) for finding in findings)))


def correctness(options: Options) -> Iterator[dict[str, Any]]:
    """Compares logits and gradients with those of the CPU."""
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)
    labels, here = np.arange(8) % 10, jax.default_backend()
    for arch in ("resnet20", "densenet_bc_40_12"):
        made = build_model(arch)
        with jax.default_device(jax.devices("cpu")[0]):
            variables = jax.device_get(made.init(jax.random.key(0), images[:1], train=False))

        def computed(kind: str, dtype: str, made: Any = made, variables: Any = variables) -> Any:
            model = made.clone(dtype=jnp.dtype(dtype))
            with (
                jax.default_device(jax.devices(kind)[0]),
                target_backend(kind),
                jax.default_matmul_precision("highest"),
            ):
                return jax.device_get(jax.jit(partial(logits_and_gradients, model))(variables, images, labels))

        expected = computed("cpu", "float32")
        own = distances(computed("cpu", "bfloat16"), expected)
        for dtype, allowed in (("float32", [FLOAT32] * 2), ("bfloat16", [BFLOAT16 * each for each in own])):
            found = distances(computed(here, dtype), expected)
            ok = all(error <= limit for error, limit in zip(found, allowed, strict=True))
            names = {"part": "correctness", "arch": arch, "dtype": dtype}
            yield names | {"logits": found[0], "gradients": found[1], "allowed": allowed, "ok": ok}


def logits_and_gradients(model: Any, variables: Any, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the logits of training, and all gradients in one vector."""

    def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable="batch_stats")
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    gradients, logits = jax.grad(loss_of, has_aux=True)(variables["params"])
    return logits, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)])


def distances(found: Any, expected: Any) -> list[float]:
    """Returns how far logits and gradients are from the expected ones, relative to their length."""
    pairs = zip(found, expected, strict=True)
    return [float(np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs]


def training(options: Options) -> Iterator[dict[str, Any]]:
    """Trains for fifty steps, or twenty small ones."""
    for arch in ("resnet20",) if options.small else ("resnet20", "densenet121"):
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            # A CPU computes bfloat16 in float32, and converts at each operation.
            size: dict[str, Any] = dict(steps=20, batch_size=16) if options.small else dict(steps=50)
            config = TrainConfig(arch, data="digits", dtype="bfloat16", out=Path(folder) / "run", **size)
            run = fit(config, quiet=True)
            lines = map(json.loads, (run.run / "metrics.jsonl").read_text().splitlines())
            losses = [line["loss"] for line in lines if line["split"] == "train"]
        ok = bool(np.isfinite(losses).all() and losses[-1] < losses[0])
        yield {
            "part": "training",
            "arch": arch,
            "losses": losses,
            "test_accuracy": run.summary["test_accuracy"],
            "seconds": round(time.perf_counter() - began, 1),
            "ok": ok,
        }


def speed(options: Options) -> Iterator[dict[str, Any]]:
    """Times training steps of ours and the peers, in turns."""
    works = {"resnet20": (8, 32)} if options.small else {"resnet50": (256, 224), "densenet121": (256, 224)}
    for arch, (batch, pixels) in works.items():
        rng = np.random.default_rng(0)
        images = rng.standard_normal((batch, pixels, pixels, 3)).astype(np.float32)
        labels = rng.integers(0, 10, batch).astype(np.int32)
        makers: dict[str, Callable[..., Any]] = {"ours": ours, "naive": naive}
        if sees_device():
            makers["torch"] = with_torch
        contenders = {who: make(arch, images, labels) for who, make in makers.items()}
        seconds: dict[str, list[float]] = {who: [] for who in contenders}
        for _ in range(options.rounds):
            for who, (run, _) in contenders.items():
                seconds[who].append(timed(run))
        flops = 6 * count_multiply_adds(build_model(arch), (pixels, pixels, 3)) * batch
        for who, (_, facts) in contenders.items():
            step = median(seconds[who])
            speeds = {"images_per_second": round(batch / step, 1), "step_ms": round(1e3 * step, 3)}
            ratio = round(median(np.divide(seconds[who], seconds["ours"]).tolist()), 3)
            yield (
                {"part": "speed", "arch": arch, "batch": batch, "who": who, **speeds, "ours_times": ratio}
                | facts
                | share_of(facts, flops, step)
            )


def timed(run: Callable[[int], None], steps: int = 10) -> float:
    """Returns the seconds of a step."""
    began = time.perf_counter()
    run(steps)
    return (time.perf_counter() - began) / steps


def share_of(facts: dict[str, Any], flops: float, seconds: float) -> dict[str, Any]:
    """Returns the share of the roofline that a step reaches, if the device's peaks are known."""
    name = jax.devices()[0].device_kind
    chip = H200 if "H200" in name else next((CHIPS[chip] for part, chip in KINDS.items() if part in name), None)
    if chip is None:
        return {"device": name}
    computes, moves = flops / chip.flops, facts.get("traffic_gb", 0) * 1e9 / chip.bandwidth
    return {"device": name, "mfu": round(computes / seconds, 4), "share": round(max(computes, moves) / seconds, 4)}


def ours(arch: str, images: np.ndarray, labels: np.ndarray) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Compiles our step, and returns what runs it a number of times."""
    model = build_model(arch, dtype=jnp.bfloat16)
    state = start_state(model.init(jax.random.key(0), images[:1], train=False), OPTIMIZER, jax.random.key(1))
    return repeated(make_train_step(model, OPTIMIZER), state, images, labels, compiler_options())


def naive(arch: str, images: np.ndarray, labels: np.ndarray) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Compiles the step of Flax by hand."""
    from benchmarks.peers.naive import MODELS, training_step

    model = MODELS[arch].clone(dtype=jnp.bfloat16)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    state = (variables["params"], variables["batch_stats"], OPTIMIZER.init(variables["params"]))
    return repeated(training_step(model, OPTIMIZER), state, images, labels, {})


def repeated(
    step: Callable[..., Any], state: Any, images: np.ndarray, labels: np.ndarray, options: dict[str, Any]
) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Compiles a step, runs it once, and returns what runs it again, with the facts of its program."""
    batch = jax.device_put((images, labels))
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, *batch).compile(compiler_options=options)
    seconds = time.perf_counter() - began
    held = [state]

    def run(steps: int) -> None:
        for _ in range(steps):
            held[0], out = compiled(held[0], *batch)
        jax.block_until_ready((held[0], out))

    run(1)
    program = Program(compiled.as_text())
    facts = {"traffic_gb": round(program.traffic() / 1e9, 3), "copies": program.count("copy")}
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return run, facts | {"temp_gb": round(temporary / 1e9, 4), "compile_seconds": round(seconds, 1)}


def sees_device() -> bool:
    """Tells if torch is there and can compute on the GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def with_torch(arch: str, images: np.ndarray, labels: np.ndarray) -> tuple[Callable[[int], None], dict[str, Any]]:
    """PyTorch's step: compiled, channels_last, mixed precision with bfloat16."""
    import torch

    from benchmarks.peers.pytorch import MODELS

    model = torch.compile(MODELS[arch]().cuda().to(memory_format=torch.channels_last))
    x = torch.tensor(images.transpose(0, 3, 1, 2)).cuda().contiguous(memory_format=torch.channels_last)
    y = torch.tensor(labels, dtype=torch.long).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()

    began = time.perf_counter()
    run(1)
    facts = {"compile_seconds": round(time.perf_counter() - began, 1)}
    return run, facts | {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3)}


if __name__ == "__main__":
    run_benchmark(PROGRAM, main, Options)

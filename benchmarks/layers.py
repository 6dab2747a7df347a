"""Every layer by itself beside the stock one: `python -m benchmarks.layers --arch resnet50 --batch 1,8`.

The distinct convolutions and pools of all architectures, found by shape alone, on images of 224×224 or 32×32. Ours
and XLA's own, as `nn.Conv` and `nn.max_pool` run it, take turns in one process: forward ("forward"), forward and
backward ("train"), forward by inference's formulas, with a bias and ReLU behind, as in a folded network ("infer"); and
the gradient of the kernel alone by each formula ("filter"). Both are compiled as `train.py` and `predict` do, with
`training_flax.compiler_options`, or `--plain`, as `jax.jit` alone does; the process keeps its memory, as `train.py`
does. Prints a line of JSON for each, which `--out` keeps: what stands there is not measured again, so that a run that
was ended goes on. `--write` puts the tables into docs/layers.md.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn

import densenet_flax
import resnet_flax
from benchmarks.command_line import check_known, fail, listed
from layers_flax import Conv, avg_pool, conv2d, inference_conv2d, max_pool
from layers_flax.conv.choices import Shape
from layers_flax.conv.conv import both_sides
from layers_flax.conv.filter_gradients import FORMULAS
from layers_flax.conv.im2col import stock_conv
from training_flax import compiler_options, keep_memory, trim_memory
from training_flax.runtime.compilation import compile_together

PROGRAM = "benchmarks.layers"
ARCHS = resnet_flax.ARCHS | densenet_flax.ARCHS
MODES = ("train", "forward", "infer", "filter")
SLOW = 0.9  # of the stock layer's speed
PATIENCE = 5.0  # seconds; a stock layer of which one call would take longer is not run


@dataclass(frozen=True)
class Options:
    """What is measured."""

    arch: str = ""
    """Architectures, with commas between; left out, all."""
    batch: str = "1,8,64"
    """Images at once, with commas between."""
    mode: str = "train,forward,infer,filter"
    """What the layers do, with commas between."""
    kernel: int | None = None
    """Only layers with a window of this size."""
    groups: int | None = None
    """Only convolutions of so many groups."""
    seconds: float = 0.2
    """How long a layer's turns take in all, at least two each."""
    limit_seconds: float | None = None
    """When to end; the widest and narrowest of layers that differ in width alone come first, and of these the small."""
    out: Path | None = None
    """A file of JSON lines: what it holds is not measured again, and what is measured is added."""
    plain: bool = False
    """Compile as `jax.jit` alone does, without `training_flax.compiler_options`."""
    only_slow: bool = False
    """Measure anew what --out has below 0.9 of the stock layer's speed, and nothing else."""
    write: bool = False
    """Put the tables of --out, or of this run, into docs/layers.md."""


class Layer(NamedTuple):
    """A convolution or pool of images of one size."""

    kind: str
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    groups: int

    @property
    def name(self) -> str:
        of = f"{self.inputs}→{self.outputs}" if self.kind == "conv" else f"of {self.inputs}"
        more = f", stride {self.stride}" * (self.stride > 1) + f", {self.groups} groups" * (self.groups > 1)
        return f"{self.kind} {self.kernel}×{self.kernel} {of} at {self.height}×{self.width}{more}"

    def shape(self, batch: int | None) -> Shape:
        """What formulas of a convolution are chosen by."""
        taps, pads = (self.kernel, self.kernel), ((self.padding,) * 2,) * 2
        size = (self.height, self.width)
        return Shape(batch, size, self.inputs, self.outputs, taps, self.stride, pads, self.groups, 4)

    @property
    def operations(self) -> int:
        """Multiply-adds or additions for an image."""
        inputs = self.inputs // self.groups if self.kind == "conv" else 1
        return self.shape(1).pixels_out * self.outputs * self.kernel**2 * inputs


def layers_of(arch: str, pixels: int | None = None) -> list[Layer]:
    """The distinct layers of an architecture, as images meet them, of 224×224 or 32×32 or else of `pixels`."""
    model, found = ARCHS[arch](), {}
    pixels = pixels or (224 if model.num_classes == 1000 else 32)

    def convolution(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(layer := context.module, Conv) and context.method_name == "__call__":
            _, *sizes = args[0].shape
            pad = both_sides(layer.padding, sizes[0], layer.kernel_size, layer.stride)[0]
            found[Layer("conv", *sizes, layer.features, layer.kernel_size, layer.stride, pad, layer.groups)] = arch
        return call(*args, **kwargs)

    def pool(name: str, run: Callable, x: jax.Array, window: int, stride: int | None = None, padding: int = 0) -> Any:
        _, *sizes = x.shape
        found[Layer(name, *sizes, sizes[-1], window, stride or window, padding, 1)] = arch
        return run(x, window, stride, padding)

    with ExitStack() as stack:
        stack.enter_context(nn.intercept_methods(convolution))
        for module in (resnet_flax.resnet, resnet_flax.vgg, densenet_flax.blocks, densenet_flax.densenet):
            for name, run in (("max_pool", max_pool), ("avg_pool", avg_pool)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, partial(pool, name, run)))
        images = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return list(found)


def in_order(layers: Iterable[Layer], batches: Iterable[int]) -> list[tuple[Layer, int]]:
    """With each batch: of layers that differ in width alone the narrowest and widest, then those between, halving.

    Of equal rank those come first that take the least time.
    """
    series: dict[tuple, list[Layer]] = {}
    for layer in dict.fromkeys(layers):
        narrow = layer.inputs if layer.kind == "conv" and layer.outputs != layer.inputs else 0
        series.setdefault((*layer[:3], layer.outputs if narrow else 0, *layer[5:]), []).append(layer)
    ranked = []
    for members in series.values():
        members.sort()
        for rank, layer in zip(halving(len(members)), members, strict=True):
            ranked += [(rank, batch * layer.operations, layer, batch) for batch in batches]
    return [(layer, batch) for *_, layer, batch in sorted(ranked)]


def halving(count: int) -> list[int]:
    """Ranks of `count` places: 0 for the two ends, 1 for the middle, 2 for the quarters and so on."""
    ranks = [0] * count
    spans, rank = [(0, count - 1)], 1
    while spans:
        parts = []
        for first, last in spans:
            if last - first > 1:
                middle = (first + last) // 2
                ranks[middle] = rank
                parts += [(first, middle), (middle, last)]
        spans, rank = parts, rank + 1
    return ranks


def contenders(layer: Layer, mode: str) -> dict[str, Callable]:
    """Functions of images, kernel and the output's gradient that compute the same; none where the mode has no sense."""
    pads = ((layer.padding,) * 2,) * 2
    if layer.kind != "conv":
        if mode not in ("train", "forward"):
            return {}
        ours, stock = {"max_pool": (max_pool, nn.max_pool), "avg_pool": (avg_pool, nn.avg_pool)}[layer.kind]
        window, strides = (layer.kernel,) * 2, (layer.stride,) * 2
        runs: dict[str, Callable] = {
            "ours": lambda x, kernel: ours(x, layer.kernel, layer.stride, layer.padding),
            "stock": lambda x, kernel: stock(x, window, strides, pads),
        }
        return {name: backward(run, layer) if mode == "train" else forward(run) for name, run in runs.items()}
    stock = partial(stock_conv, stride=layer.stride, pads=pads, groups=layer.groups)
    if mode == "filter":
        shape = layer.shape(1)
        if layer.kernel == 1 and layer.groups == 1:
            return {}
        names = ["dots of groups"] if layer.groups > 1 else ["channels as images"]
        if layer.groups == layer.stride == 1 and shape.centred:  # keeps the size
            names += ["balanced", "dots, then shifts"]
        runs = {name: partial(FORMULAS[name], stride=layer.stride, pads=pads) for name in names}
        return {name: filter_gradient(run) for name, run in (runs | {"stock": stock}).items()}
    ours = inference_conv2d if mode == "infer" else conv2d
    ours = partial(ours, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    wrap = {"train": partial(backward, layer=layer), "infer": activated, "forward": forward}[mode]
    return {"ours": wrap(ours), "stock": wrap(stock)}


def filter_gradient(run: Callable) -> Callable:
    return lambda x, kernel, dy: jax.linear_transpose(lambda kernel: run(x, kernel), kernel)(dy)


def forward(run: Callable) -> Callable:
    return lambda x, kernel, dy: run(x, kernel)


def activated(run: Callable) -> Callable:
    return lambda x, kernel, dy: nn.relu(run(x, kernel) + kernel[0, 0, 0])


def backward(run: Callable, layer: Layer) -> Callable:
    """The output and the gradients of images and kernel; of the kernel alone in a stem, whose images are the data."""

    def both(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        if layer.kind != "conv":
            y, transpose = jax.vjp(lambda x: run(x, kernel), x)
        elif layer.inputs == 3:
            y, transpose = jax.vjp(lambda kernel: run(x, kernel), kernel)
        else:
            y, transpose = jax.vjp(run, x, kernel)
        return y, transpose(dy)

    return both


def measure(
    layer: Layer, batch: int, mode: str, options: Options, fewer: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Median seconds of each contender, and the medians of the rounds' ratios of the stock one's to theirs.

    `fewer` is the row of the same layer with fewer images. Where by that the stock one would take too long, the ratios
    are those of fewer images.
    """
    functions = contenders(layer, mode)
    if not functions:
        return None
    if fewer and batch * fewer["seconds"]["stock"] > PATIENCE * fewer["batch"]:
        row = {name: fewer[name] for name in ("times stock", "of the fastest rounds", "plain") if name in fewer}
        return {"layer": layer.name, "batch": batch, "mode": mode, "as of batch": fewer["batch"], **row}
    shapes = [
        (batch, layer.height, layer.width, layer.inputs),
        (layer.kernel, layer.kernel, layer.inputs // layer.groups, layer.outputs),
    ]
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    shapes.append(jax.eval_shape(contenders(layer, "forward")["stock"], x, kernel, x).shape)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = {name: jax.jit(function).lower(*arguments) for name, function in functions.items()}
    texts = {name: program.as_text() for name, program in lowered.items()}
    row = {"layer": layer.name, "batch": batch, "mode": mode} | ({"plain": True} if options.plain else {})
    if len(set(texts.values())) == 1:
        return row | {"same": True, "times stock": dict.fromkeys((name for name in texts if name != "stock"), 1.0)}
    told = {} if options.plain else compiler_options()
    unlike = {text: lowered[name] for name, text in texts.items()}
    compiling = compile_together(unlike.values(), told)
    programs = {text: program.result() for text, program in zip(unlike, compiling, strict=True)}
    inputs = [draw(shape) for shape in shapes]
    runs = {name: partial(programs[text], *inputs) for name, text in texts.items()}
    times = take_turns(runs, options.seconds)
    ratios = times_stock(times)
    if min(ratios.values()) < SLOW and mode != "filter":  # once more, for longer, lest it be chance
        more = take_turns(runs, 3 * options.seconds)
        times = {name: times[name] + more[name] for name in times}
        ratios = times_stock(times)
    row |= {"seconds": {name: float(f"{median(values):.3g}") for name, values in times.items()}}
    best = {name: round(min(times["stock"]) / min(values), 3) for name, values in times.items() if name != "stock"}
    return row | {"times stock": ratios, "of the fastest rounds": best, "rounds": len(times["stock"])}


@cache
def million() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(2**20, np.float32)


def draw(shape: tuple[int, ...]) -> jax.Array:
    """Normal numbers, a million of them again and again: more take longer to draw than a layer does to run."""
    return jnp.asarray(np.resize(million()[: prod(shape)], shape))


def take_turns(runs: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Seconds a call, round by round, of as many calls as take a hundredth of a second at least."""
    calls = {}
    for name, run in runs.items():
        jax.block_until_ready(run())
        start = time.perf_counter()
        jax.block_until_ready(run())
        calls[name] = max(1, min(100, int(0.005 / (time.perf_counter() - start))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while len(times["stock"]) < 3 or time.perf_counter() - start < seconds:
        for name, run in runs.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                jax.block_until_ready(run())
            times[name].append((time.perf_counter() - began) / calls[name])
        if time.perf_counter() - start > 30 * seconds and len(times["stock"]) > 1:
            break
    return times


def times_stock(times: dict[str, list[float]]) -> dict[str, float]:
    """Speeds, with the stock layer's as the unit."""
    return {
        name: round(median(stock / mine for stock, mine in zip(times["stock"], values, strict=True)), 3)
        for name, values in times.items()
        if name != "stock"
    }


def works(options: Options) -> Iterator[tuple[Layer, int, str]]:
    archs = listed(options.arch) or list(ARCHS)
    batches, modes = [int(batch) for batch in listed(options.batch)], listed(options.mode)
    for layer, batch in in_order((layer for arch in archs for layer in layers_of(arch)), batches):
        if options.kernel not in (None, layer.kernel) or options.groups not in (None, layer.groups):
            continue
        for mode in modes:
            yield layer, batch, mode


def check(options: Options) -> None:
    """Ends with exit code 2 where an option is wrong."""
    check_known(PROGRAM, "arch", options.arch, ARCHS)
    check_known(PROGRAM, "mode", options.mode, MODES)
    for batch in listed(options.batch):
        if not batch.isdecimal() or int(batch) < 1:
            fail(PROGRAM, f"--batch must be whole numbers from 1, with commas between; given {options.batch!r}")
    if options.seconds <= 0 or min(options.limit_seconds or 1, options.kernel or 1, options.groups or 1) <= 0:
        fail(PROGRAM, "--seconds, --limit-seconds, --kernel and --groups must be more than 0")
    if options.only_slow and (options.out is None or not options.out.exists()):
        fail(PROGRAM, f"--only-slow needs --out, a file of an earlier run; given {options.out}")


def main(options: Options) -> None:
    check(options)
    start = time.perf_counter()
    rows = read(options.out, options.plain)
    for layer, batch, mode in works(options):
        key = (layer.name, batch, mode)
        if options.limit_seconds is not None and time.perf_counter() - start > options.limit_seconds:
            break
        if options.only_slow:
            if key not in rows or min(rows[key]["times stock"].values()) >= SLOW:
                continue
        elif key in rows:
            continue
        row = measure(layer, batch, mode, options, with_fewer_images(rows.values(), *key))
        if row is None:
            continue
        rows[key] = row
        print(json.dumps(row, ensure_ascii=False), flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if len(rows) % 50 == 0:
            jax.clear_caches()  # of programs, which would fill the memory
            trim_memory()
    if options.write:
        from benchmarks.layers_page import write_page

        write_page(list(rows.values()))


def with_fewer_images(rows: Iterable[dict[str, Any]], name: str, batch: int, mode: str) -> dict[str, Any] | None:
    """The row of the same layer that was run with most images, though fewer than `batch`."""
    alike = [row for row in rows if (row["layer"], row["mode"]) == (name, mode) and "seconds" in row]
    return max((row for row in alike if row["batch"] < batch), key=lambda row: row["batch"], default=None)


def read(path: Path | None, plain: bool) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Rows of an earlier run that was compiled likewise; of the same work the last one."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["layer"], row["batch"], row["mode"]): row for row in rows if row.get("plain", False) == plain}


if __name__ == "__main__":
    keep_memory()
    main(tyro.cli(Options))

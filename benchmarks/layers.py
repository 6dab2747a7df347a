"""Speed of each layer beside the stock one: `python -m benchmarks.layers --arch resnet50 --batch 1,8`.

Measures the distinct convolutions and pools of all architectures on images of 224×224 or 32×32. Our layer and the stock
one, XLA's own as `nn.Conv` and `nn.max_pool` run it, take turns in one process. The modes are forward ("forward"),
forward and backward ("train"), forward by the formulas of inference with a bias and a ReLU, as in a folded network
("infer"), and the gradient of the kernel by each formula ("filter"). Both are compiled with
`training_flax.compiler_options`, as in `train.py` and `predict`, or with `--plain` as `jax.jit` does by default; the
process keeps its memory, as `train.py` does. Prints a line of JSON for each measurement; `--out` keeps the lines, and a
run with the same file continues after the last one. `--write` puts the tables into docs/layers.md.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import densenet_flax
import resnet_flax
from benchmarks.command_line import check_known, fail, listed, run_benchmark
from layers_flax import Conv, avg_pool, conv2d, inference_conv2d, max_pool, variables_by_shape
from layers_flax.conv.choices import Shape
from layers_flax.conv.conv import both_sides
from layers_flax.conv.filter_gradients import FORMULAS
from layers_flax.conv.im2col import stock_conv
from layers_flax.nn import norm_pool
from training_flax import compiler_options, keep_memory, trim_memory
from training_flax.runtime.compilation import compile_together
from weights_flax.io.archs import published_size
from weights_flax.look.trace import trace_network

PROGRAM = "benchmarks.layers"
ARCHS = resnet_flax.ARCHS | densenet_flax.ARCHS
MODES = ("train", "forward", "infer", "filter")
SLOW = 0.9  # times the stock layer's speed
PATIENCE = 5.0  # seconds; a stock layer is not run if one call would take longer


@dataclass(frozen=True)
class Options:
    """Measures layers one by one beside the stock ones."""

    arch: str = ""
    """Architectures, separated by commas; by default all."""
    batch: str = "1,8,64"
    """Batch sizes, separated by commas."""
    mode: str = "train,forward,infer,filter"
    """Modes, separated by commas."""
    kernel: int | None = None
    """Measure only layers with a window of this size."""
    groups: int | None = None
    """Measure only convolutions with this number of groups."""
    seconds: float = 0.2
    """Total time of a layer's turns; at least two turns each."""
    limit_seconds: float | None = None
    """Time limit of the run. Of layers that differ only in width, the narrowest and the widest are measured first."""
    out: Path | None = None
    """A file of JSON lines: new results are added to it, and results in it are not measured again."""
    plain: bool = False
    """Compile without `training_flax.compiler_options`."""
    only_slow: bool = False
    """Measure again only the layers that --out has below 0.9 of the stock layer's speed."""
    write: bool = False
    """Put the tables of --out, or of this run, into docs/layers.md."""


class MeasuredLayer(NamedTuple):
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
        """Returns the shape by which formulas of a convolution are chosen."""
        taps, pads = (self.kernel, self.kernel), ((self.padding,) * 2,) * 2
        size = (self.height, self.width)
        return Shape(batch, size, self.inputs, self.outputs, taps, self.stride, pads, self.groups, 4)

    @property
    def operations(self) -> int:
        """Multiply-adds of a convolution, or additions of a pool, for one image."""
        inputs = self.inputs // self.groups if self.kind == "conv" else 1
        return self.shape(1).pixels_out * self.outputs * self.kernel**2 * inputs


def layers_of(arch: str, pixels: int | None = None) -> list[MeasuredLayer]:
    """Returns the distinct layers of an architecture for images of 224×224 or 32×32, or of `pixels`."""
    model, layers = ARCHS[arch](), {}
    pixels = pixels or published_size(model)

    def pool(name: str, run: Callable, x: jax.Array, window: int, stride: int | None = None, padding: int = 0) -> Any:
        _, *sizes = x.shape
        layers[MeasuredLayer(name, *sizes, sizes[-1], window, stride or window, padding, 1)] = arch
        return run(x, window, stride, padding)

    with ExitStack() as stack:
        for module in (norm_pool, resnet_flax.vgg, densenet_flax.blocks):
            for name, run in (("max_pool", max_pool), ("avg_pool", avg_pool)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, partial(pool, name, run)))
        image_shape = (pixels, pixels, 3)
        trace = trace_network(model, variables_by_shape(model, image_shape), image_shape)
    for equation in trace.closed.eqns:
        traced = trace.layer_of(equation)
        if traced is not None and isinstance(conv := traced.module, Conv):
            images: Any = equation.invars[0].aval
            pad = both_sides(conv.padding, images.shape[1], conv.kernel_size, conv.stride)[0]
            window = conv.features, conv.kernel_size, conv.stride, pad, conv.groups
            layers[MeasuredLayer("conv", *images.shape[1:], *window)] = arch
    return list(layers)


def in_order(layers: Iterable[MeasuredLayer], batches: Iterable[int]) -> list[tuple[MeasuredLayer, int]]:
    """Orders layers and batches: of layers that differ only in width first the two ends, then the middle, and so on.

    Among layers of equal rank the one with the fewest operations comes first.
    """
    series: dict[tuple, list[MeasuredLayer]] = {}
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
    """Returns ranks of `count` places: 0 for the two ends, 1 for the middle, 2 for the quarters and so on."""
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


def contenders(layer: MeasuredLayer, mode: str) -> dict[str, Callable]:
    """Returns functions of images, kernel and output gradient that compute the same; none if the mode does not fit."""
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


def backward(run: Callable, layer: MeasuredLayer) -> Callable:
    """Wraps a layer to return its output and the gradients of images and kernel; a stem needs only the kernel's."""

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
    layer: MeasuredLayer, batch: int, mode: str, options: Options, fewer: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the median seconds of each contender, and the median ratio of the stock layer's time to each.

    `fewer` is the row of the same layer with fewer images. If it shows that the stock layer would now take too long,
    its ratios are used.
    """
    functions = contenders(layer, mode)
    if not functions:
        return None
    if fewer and batch * fewer["seconds"]["stock"] > PATIENCE * fewer["batch"]:
        row = {name: fewer[name] for name in ("times stock", "of the fastest rounds", "plain") if name in fewer}
        return {"layer": layer.name, "batch": batch, "mode": mode, "as of batch": fewer["batch"], **row}
    window = layer.kernel, layer.kernel, layer.inputs // layer.groups, layer.outputs
    shapes = (batch, layer.height, layer.width, layer.inputs), window
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    arguments.append(jax.eval_shape(contenders(layer, "forward")["stock"], *arguments, arguments[0]))
    lowered = {name: jax.jit(function).lower(*arguments) for name, function in functions.items()}
    texts = {name: program.as_text() for name, program in lowered.items()}
    row = {"layer": layer.name, "batch": batch, "mode": mode} | ({"plain": True} if options.plain else {})
    if len(set(texts.values())) == 1:
        return row | {"same": True, "times stock": dict.fromkeys((name for name in texts if name != "stock"), 1.0)}
    flags = {} if options.plain else compiler_options()
    unlike = {text: lowered[name] for name, text in texts.items()}
    compiling = compile_together(unlike.values(), flags)
    programs = {text: program.result() for text, program in zip(unlike, compiling, strict=True)}
    inputs = [draw(argument.shape) for argument in arguments]
    runs = {name: partial(programs[text], *inputs) for name, text in texts.items()}
    times = take_turns(runs, options.seconds)
    ratios = times_stock(times)
    if min(ratios.values()) < SLOW and mode != "filter":  # measure again for longer, since the result may be chance
        more = take_turns(runs, 3 * options.seconds)
        times = {name: times[name] + more[name] for name in times}
        ratios = times_stock(times)
    row |= {"seconds": {name: float(f"{median(values):.3g}") for name, values in times.items()}}
    best = {name: round(min(times["stock"]) / min(values), 3) for name, values in times.items() if name != "stock"}
    return row | {"times stock": ratios, "of the fastest rounds": best, "rounds": len(times["stock"])}


def draw(shape: tuple[int, ...]) -> jax.Array:
    """Returns normal numbers, the same million repeated: drawing more would take longer than running a layer."""
    values = np.random.default_rng(0).standard_normal(min(prod(shape), 2**20), np.float32)
    return jnp.asarray(np.resize(values, shape))


def take_turns(runs: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Returns seconds a call for each round; short layers are called up to a hundred times a round."""
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
    """Returns speeds relative to the stock layer's."""
    return {
        name: round(median(stock / mine for stock, mine in zip(times["stock"], values, strict=True)), 3)
        for name, values in times.items()
        if name != "stock"
    }


def works(options: Options) -> Iterator[tuple[MeasuredLayer, int, str]]:
    archs = listed(options.arch) or list(ARCHS)
    batches, modes = [int(batch) for batch in listed(options.batch)], listed(options.mode)
    for layer, batch in in_order((layer for arch in archs for layer in layers_of(arch)), batches):
        if options.kernel not in (None, layer.kernel) or options.groups not in (None, layer.groups):
            continue
        for mode in modes:
            yield layer, batch, mode


def check(options: Options) -> None:
    """Ends with exit code 2 if an option is wrong."""
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
            jax.clear_caches()  # compiled programs would fill the memory
            trim_memory()
    if options.write:
        from benchmarks.layers_page import write_page

        write_page(list(rows.values()))


def with_fewer_images(rows: Iterable[dict[str, Any]], name: str, batch: int, mode: str) -> dict[str, Any] | None:
    """Returns the row of the same layer with the largest measured batch below `batch`."""
    alike = [row for row in rows if (row["layer"], row["mode"]) == (name, mode) and "seconds" in row]
    return max((row for row in alike if row["batch"] < batch), key=lambda row: row["batch"], default=None)


def read(path: Path | None, plain: bool) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Reads the rows of earlier runs with the same compiler options; the last row of a layer counts."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["layer"], row["batch"], row["mode"]): row for row in rows if row.get("plain", False) == plain}


if __name__ == "__main__":
    keep_memory()
    run_benchmark(PROGRAM, main, Options)

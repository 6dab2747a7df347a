"""Benchmarks that run our networks and the peers in turn, and print and tabulate the results."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import tyro

from benchmarks import layers, layers_page, memory, memory_page, page, scaling, speed
from benchmarks.peers import naive
from benchmarks.works import WORKS, Work
from densenet_flax import DenseNet
from layers_flax import count_parameters
from weights_flax import build_model

ROOT = Path(__file__).resolve().parents[1]


def contender(name, seconds, **facts):
    return SimpleNamespace(name=name, seconds=seconds, facts={"peak_rss_mb": 100.0, **facts})


def made_up(work=WORKS[0]):
    compiled = dict(compile_seconds=5.0, temp_mb=700.0)
    contenders = [
        contender("ours", [1.0, 2.0, 4.0], multiply_adds=1e9, **compiled),
        contender("torch", [2.0, 2.0, 2.0]),
        contender("torch channels_last", [1.0, 1.0, 3.0]),
        contender("naive", [3.0, 3.0, 3.0], **compiled),
        contender("gemm", [2.0, 2 * 2048**3 / 1e10, 3.0]),
    ]
    return speed.summarise(work, {one.name: one for one in contenders})


def test_ratios_are_of_the_rounds_and_to_pytorchs_faster_layout():
    result = made_up()
    assert result["times torch"] == {"median": 0.75, "of": "torch channels_last", "least": 0.5, "most": 1.0}
    assert result["times naive"] == {"median": 1.5, "of": "naive", "least": 0.75, "most": 3.0}
    assert result["ours"]["images_per_second"] == 4.0  # 8 images in the median's 2 seconds
    assert result["peak, GFLOP/s"] == 10.0
    assert result["share of the peak"] == 0.3  # 3 passes of 1e9 multiply-adds in 2 seconds
    assert made_up(Work("resnet50", 1, False))["share of the peak"] == 0.1


def test_the_page_gets_the_table_and_the_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "benchmarks.md").write_text(f"before\n\n{page.BEGIN}old\n{page.END}\nbehind\n")
    page.write_page([made_up()])
    heads, rule, row = (tmp_path / "benchmarks.md").read_text().split("\n")[3:6]
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nbehind\n") and "old" not in text
    assert (
        "| resnet50 train b8 | 4.0 | 0.75 (0.50 to 1.00) | 1.50 (0.75 to 3.00) | 5.0 | 5.0 | 700 | 700 | 30 % |" in text
    )
    assert heads.count("|") == rule.count("|") == row.count("|")
    assert (tmp_path / "images" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_works_without_peers_have_a_line_and_no_bars(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    drawn = []
    monkeypatch.setattr(page, "draw", lambda results, path: drawn.append(results))
    (tmp_path / "benchmarks.md").write_text(page.BEGIN + page.END)
    compared = made_up()
    alone = {key: value for key, value in compared.items() if not key.startswith(("times", "naive", "torch"))}
    page.write_page([alone | {"work": "resnet1202 train b32"}, compared])
    assert drawn == [[compared]]
    assert (
        "| resnet1202 train b32 | 4.0 | – | – | 5.0 | – | 700 | – | 30 % |" in (tmp_path / "benchmarks.md").read_text()
    )
    page.write_page([alone])
    assert drawn == [[compared]]


def test_works_without_peers_need_no_torch(monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda work, options: {"work": work.name})
    speed.main(speed.Options(arch="resnet110,resnet1202", torch_python="no/python"))
    with pytest.raises(SystemExit):
        speed.main(speed.Options(arch="resnet110,resnet20", torch_python="no/python"))


def test_time_over_depth_and_batch_gets_a_table_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "benchmarks.md").write_text(f"before\n{scaling.BEGIN}old\n{scaling.END}behind\n")
    monkeypatch.setattr(speed, "measure", lambda work, options: made_up(work))
    scaling.main(scaling.Options(peer="naive", depth="resnet20,resnet56", batch="1,8", arch="resnet50", write=True))
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.startswith("before\n") and text.endswith("behind\n") and "old" not in text
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert names == ["work", "resnet20 train b128", "resnet56 train b128", "resnet50 train b1", "resnet50 train b8"]
    assert (tmp_path / "images" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_over_depth_shows_pytorchs_faster_layout():
    result = made_up()
    assert scaling.value_of(result, "torch", "seconds") == 1.0 and scaling.value_of(result, "naive", "seconds") == 3.0
    assert scaling.value_of(result, "ours", "seconds") == 2.0
    assert scaling.value_of(result, "torch", "compile_seconds") is None
    assert scaling.value_of({"ours": {"seconds": 2.0}}, "torch", "seconds") is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--depth", "resnet21"], "--depth must be of resnet20, .*, resnet110; given 'resnet21'"),
        (["--arch", "resnet20"], "--arch must be of densenet121, resnet50; given 'resnet20'"),
        (["--batch", "1,x"], "--batch and --depth-batch must be whole numbers from 1; given 'x'"),
        (["--depth-batch", "0"], "--batch and --depth-batch must be whole numbers from 1; given '0'"),
        (["--peer", "flax"], "--peer must be of naive, torch; given 'flax'"),
        (["--peer", "naive", "--rounds", "0"], "--rounds must be at least 1; given 0"),
    ],
)
def test_wrong_options_of_scaling_end_with_one_line(options, says, capsys):
    with pytest.raises(SystemExit) as end:
        scaling.main(tyro.cli(scaling.Options, args=options))
    assert end.value.code == 2
    assert re.fullmatch(f"benchmarks.scaling: error: {says}\n", capsys.readouterr().err)


def test_the_page_in_the_docs_can_be_written():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arch", "resnet51"], "--arch must be of densenet121, densenet_bc_100_12, resnet110, .*; given 'resnet51'"),
        (["--peer", "naive,tensorflow"], "--peer must be of naive, torch; given 'tensorflow'"),
        (["--peer", "naive", "--rounds", "0"], "--rounds must be at least 1; given 0"),
        (["--peer", "naive", "--batch", "0"], "--batch must be at least 1; given 0"),
        (["--torch-python", "/bin/false"], "/bin/false has no torch: name one that has by --torch-python, or .*"),
        (["--torch-python", "no/python"], "no/python has no torch: name one that has by --torch-python, or .*"),
    ],
)
def test_wrong_options_end_with_one_line(options, says):
    run = subprocess.run([sys.executable, "-m", "benchmarks.speed", *options], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert re.fullmatch(f"benchmarks.speed: error: {says}\n", run.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_ours_and_flax_by_hand_take_turns(mode):
    options = ["--arch", "resnet20", "--batch", "4", "--mode", mode, "--peer", "naive", "--rounds", "2"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *options, "--seconds", "0.01"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    *turns, result = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(turn["round"], turn["by"]) for turn in turns] == [
        (number, name) for number in range(2) for name in ("ours", "naive", "gemm")
    ]
    assert all(min(turn["seconds"]) > 0 for turn in turns)
    assert result["work"] == f"resnet20 {mode} b4"
    assert result["times naive"]["least"] <= result["times naive"]["median"] <= result["times naive"]["most"]
    assert min(result["ours"]["compile_seconds"], result["ours"]["temp_mb"], result["share of the peak"]) > 0


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "densenet_bc_100_12"])
def test_the_peers_are_the_same_networks(name):
    work = next(work for work in WORKS if work.arch == name)
    images = jnp.zeros((1, work.pixels, work.pixels, 3))
    shapes = jax.eval_shape(lambda: naive.MODELS[name].init(jax.random.key(0), images, train=False))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert parameters == count_parameters(build_model(name), images.shape[1:])


def test_layers_are_measured_beside_the_stock_ones_and_kept(tmp_path, monkeypatch, capsys):
    small = layers.MeasuredLayer("conv", 8, 8, 4, 5, 3, 1, 1, 1)
    monkeypatch.setattr(layers, "layers_of", lambda arch: [small])
    out = tmp_path / "layers.jsonl"
    options = ["--arch", "resnet20", "--batch", "1", "--seconds", "0.1", "--out", str(out)]

    def run(*more):
        layers.main(tyro.cli(layers.Options, args=[*options, *more]))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    forward, train = run("--mode", "forward,train")
    work = {"layer": "conv 3×3 4→5 at 8×8", "batch": 1}
    assert forward == {**work, "mode": "forward", "same": True, "times stock": {"ours": 1.0}}
    assert min(train["seconds"].values()) > 0 and train["times stock"]["ours"] > 0 and train["rounds"] >= 3
    (gradient,) = run("--mode", "forward,filter,train")  # results in the file are not measured again
    assert gradient["times stock"].keys() == {"dots, then shifts", "balanced", "channels as images"}
    assert [json.loads(line) for line in out.read_text().splitlines()] == [forward, train, gradient]
    out.write_text(json.dumps(train | {"times stock": {"ours": 0.5}}) + "\n")
    assert [row["mode"] for row in run("--mode", "forward,train", "--only-slow")] == ["train"]
    (plain,) = run("--mode", "train", "--plain")  # results of other compiler options do not count
    assert plain["plain"] and not run("--mode", "train", "--plain") and not run("--mode", "train")


def test_a_stock_layer_that_takes_too_long_is_run_with_fewer_images_alone(monkeypatch, capsys):
    monkeypatch.setattr(layers, "layers_of", lambda arch: [layers.MeasuredLayer("conv", 8, 8, 4, 5, 3, 1, 1, 1)])
    monkeypatch.setattr(layers, "PATIENCE", 1e-9)
    options = ["--arch", "resnet20", "--batch", "1,8,64", "--seconds", "0.1", "--mode", "train"]
    layers.main(tyro.cli(layers.Options, args=options))
    one, *more = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert one["rounds"] >= 3
    kept = {name: one[name] for name in ("layer", "mode", "times stock", "of the fastest rounds")}
    assert more == [{**kept, "batch": batch, "as of batch": 1} for batch in (8, 64)]
    assert "ratio of 2 is that of fewer images" in layers_page.speeds([one, *more])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arch", "resnet51"], "--arch must be of resnet18, .*; given 'resnet51'"),
        (["--mode", "sideways"], "--mode must be of train, forward, infer, filter; given 'sideways'"),
        (["--batch", "8,none"], "--batch must be whole numbers from 1, with commas between; given '8,none'"),
        (["--batch", "0"], "--batch must be whole numbers from 1, with commas between; given '0'"),
        (["--seconds", "0"], "--seconds, --limit-seconds, --kernel and --groups must be more than 0"),
        (["--only-slow"], "--only-slow needs --out, a file of an earlier run; given None"),
    ],
)
def test_wrong_options_of_layers_end_with_one_line(options, says, capsys):
    with pytest.raises(SystemExit) as end:
        layers.main(tyro.cli(layers.Options, args=options))
    assert end.value.code == 2
    assert re.fullmatch(f"benchmarks.layers: error: {says}\n", capsys.readouterr().err)


def test_layers_that_differ_in_width_come_in_halves():
    assert layers.halving(1) == [0] and layers.halving(2) == [0, 0]
    assert layers.halving(5) == [0, 2, 1, 2, 0]
    made = [layers.MeasuredLayer("conv", 8, 8, width, 12, 3, 1, 1, 1) for width in (10, 20, 30, 40, 50)]
    assert [layer.inputs for layer, _ in layers.in_order(made, [1])] == [10, 50, 30, 20, 40]
    assert [(layer.inputs, batch) for layer, batch in layers.in_order(made, [1, 8])][:4] == [
        (10, 1),
        (50, 1),
        (10, 8),
        (50, 8),
    ]


def test_layers_found_by_shape_are_those_of_the_network():
    found = layers.layers_of("densenet121")
    assert len(found) == len(set(found))
    assert layers.MeasuredLayer("conv", 224, 224, 3, 64, 7, 2, 3, 1) in found
    assert layers.MeasuredLayer("max_pool", 112, 112, 64, 64, 3, 2, 1, 1) in found
    assert layers.MeasuredLayer("avg_pool", 56, 56, 128, 128, 2, 2, 0, 1) in found
    assert layers.MeasuredLayer("conv", 56, 56, 128, 32, 3, 1, 1, 1) in found


def test_the_page_of_layers_has_the_choices_as_they_are(tmp_path, monkeypatch):
    assert layers_page.choices() in layers_page.PAGE.read_text()
    copy = tmp_path / "layers.md"
    copy.write_text(layers_page.PAGE.read_text())
    monkeypatch.setattr(layers_page, "PAGE", copy)
    row = {"layer": "conv", "batch": 8, "seconds": {"stock": 0.002}}
    train = row | {"mode": "train", "times stock": {"ours": 0.8}, "of the fastest rounds": {"ours": 0.95}}
    layers_page.write_page([train, row | {"mode": "filter", "times stock": {"balanced": 1.5}}])
    text = copy.read_text()
    assert "| train | 8 | 1 | 0.8 | 0.8 | 0.8 | 1 |" in text
    assert "| conv | train | 8 | 0.8 | 0.95 |" in text
    assert "| conv | 8 | 2 | – | – | 1.5 | – |" in text
    layers_page.write_page([train | {"batch": 64}])  # the gradients' table stays
    text = copy.read_text()
    assert "| conv | train | 64 | 0.8 | 0.95 |" in text and "| conv | train | 8 |" not in text
    assert "| conv | 8 | 2 | – | – | 1.5 | – |" in text


@pytest.mark.slow
def test_memory_is_measured_by_depth_with_its_price(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "build_model", lambda arch: DenseNet((4,), 4, 10, "cifar"))
    monkeypatch.setattr(memory_page, "PAGE", tmp_path / "memory.md")
    monkeypatch.setattr(memory_page, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    marks = [mark.format(name) for name in ("depth", "price") for mark in (memory_page.BEGIN, memory_page.END)]
    (tmp_path / "memory.md").write_text("".join(marks))
    memory.main(memory.Options("densenet121", "densenet121", batch_size=2, rounds=1, write=True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["layers"] for line in lines[:4]] == [1, 2, 3, 4]
    # With `remat` memory grows more slowly with the number of layers.
    assert lines[3]["remat"]["temp_mb"] - lines[2]["remat"]["temp_mb"] < (
        lines[3]["default"]["temp_mb"] - lines[2]["default"]["temp_mb"]
    )
    assert lines[4]["times as long"] > 0
    text = (tmp_path / "memory.md").read_text()
    assert "| densenet121 | 4 | " in text and "MB a layer" in text and " × (" in text
    assert (tmp_path / "images" / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_the_line_through_a_line_is_that_line():
    rows = [
        {"arch": "a", "layers": n, "gradient_mb": n**2, "remat": {"temp_mb": n**2 + 3.0 * n + 5}} for n in (1, 2, 5)
    ]
    fit = memory_page.line_of(rows, "a", "remat")
    assert fit["mb a layer"] == pytest.approx(3) and fit["mb of none"] == pytest.approx(5)
    assert fit["off the line"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(depth="resnet50"), "--depth must be of densenet121, .*; given 'resnet50'"),
        (dict(price="resnet51"), "--price must be of .*; given 'resnet51'"),
        (dict(rounds=0), "--batch-size and --rounds must be at least 1; given 8 and 0"),
    ],
)
def test_wrong_options_of_memory_end_with_one_line(options, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        memory.main(memory.Options(**options))
    assert re.fullmatch(f"benchmarks.memory: error: {says}\n", capsys.readouterr().err)

"""The benchmarks run ours and the peers in turn, and say what they measured."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import page, speed
from benchmarks.peers import naive
from benchmarks.works import WORKS, Work
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


def test_the_page_in_the_docs_can_be_written():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arch", "resnet51"], "--arch must be of densenet121, densenet_bc_100_12, resnet20, .*; given 'resnet51'"),
        (["--peer", "naive,tensorflow"], "--peer must be of naive, torch; given 'tensorflow'"),
        (["--peer", "naive", "--rounds", "0"], "--rounds and --batch must be at least 1; given 0 and None"),
        (["--torch-python", "/bin/false"], "/bin/false has no torch: name one that has by --torch-python, or .*"),
        (["--torch-python", "no/python"], "no/python has no torch: name one that has by --torch-python, or .*"),
    ],
)
def test_wrong_options_end_with_one_line(options, says):
    run = subprocess.run([sys.executable, "-m", "benchmarks.speed", *options], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert re.fullmatch(f"benchmarks.speed: error: {says}\n", run.stderr)


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

"""Counting what a program of an accelerator moves, and the commands around it; no compiler is needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from benchmarks import accelerators, accelerators_page, batch_norm, on_device
from benchmarks.absent import AbsentWork
from benchmarks.chips import CHIPS, chip_of
from benchmarks.hlo import Program, size_of

ROOT = Path(__file__).resolve().parents[1]
# A fusion that reads two maps and writes one in place, a fetch into vector memory, a sum over chips, a copy.
TEXT = """HloModule step
%inner (p0: bf16[4,128], p1: bf16[4,8]) -> bf16[4,128] {
  %p0 = bf16[4,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %put = bf16[4,128]{1,0:T(8,128)(2,1)} dynamic-update-slice(%p0, %p1, %zero, %zero)
}
%plus (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}
ENTRY %main (x: bf16[4,128], y: bf16[4,8], g: f32[10]) -> f32[10] {
  %x = bf16[4,128]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(1)
  %g = f32[10]{0} parameter(2)
  %fetch = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, bf16[4,8]{1,0:T(8,128)(2,1)}, u32[]) copy-start(%y)
  %fetched = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %whole = bf16[4,128]{1,0:T(8,128)(2,1)} fusion(%x, %fetched), kind=kLoop, calls=%inner
  %all = f32[10]{0} all-reduce(%g), replica_groups={{0,1}}, to_apply=%plus
  ROOT %out = f32[10]{0} copy(%all)
}
"""


def test_traffic_is_what_operations_read_and_write():
    """The fetch reads a tile of 8×128 in bfloat16, the fusion writes nothing but the slice that is in fast memory."""
    program = Program(TEXT)
    tile = 8 * 128 * 2
    assert size_of("bf16[4,128]{1,0:T(8,128)(2,1)}") == tile
    assert size_of("bf16[4,8]{1,0:T(8,128)(2,1)S(1)}") == 0
    assert size_of("(f32[10]{0}, pred[3])") == 43
    update = tile  # the slice is written to memory, from where it lies in fast memory
    assert program.traffic() == tile + update + 2 * 40 + 2 * 40
    assert program.reduced() == 40
    assert program.count("copy") == 1 and program.count("all-reduce") == 1
    assert program.count("add", "dynamic-update-slice") == 0  # they run as a part of others


@pytest.mark.parametrize(("read", "binds"), [(10, "compute"), (10**12, "memory")])
def test_the_bound_is_of_what_takes_longer(read, binds, monkeypatch):
    """A program reads and writes so many float32, in an operation that runs by itself."""
    text = TEXT.replace("copy(%all)", f"copy(%all)\n  %more = f32[{read}]{{0}} negate(%g)")
    monkeypatch.setattr(accelerators, "compiled", lambda work, who, folder: (text, 5))
    work, chip = AbsentWork("resnet20", "v5e:2x4", 8), CHIPS["v5e"]
    counted = accelerators.count(work, "ours")
    moves, computes = Program(text).traffic() / chip.bandwidth, work.flops() / chip.flops
    assert counted["binds"] == binds
    assert counted["bound_ms"] == pytest.approx(1e3 * max(moves, computes), abs=5e-5)  # four digits are printed
    assert counted["images_per_second_bound"] == pytest.approx(8 / max(moves, computes), abs=0.05)
    assert counted["all_reduces"] == 1 and counted["temp_gb"] == 0


@pytest.mark.parametrize(("topology", "chip"), [("v5e:2x4", "v5e"), ("v4:2x2x1", "v4"), ("cuda:8", "cuda")])
def test_peaks_are_of_the_chip_that_is_named(topology, chip):
    assert chip_of(topology) is CHIPS[chip]


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v7:2x2", "cuda:8x", "cuda:h100", ""])
def test_an_unknown_topology_is_told(topology):
    with pytest.raises(ValueError, match=f"topology must be like v5e:2x4, of v4, .* or cuda:8; given {topology!r}"):
        chip_of(topology)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arch", "resnet51"], "--arch must be of resnet50, densenet121, .*; given 'resnet51'"),
        (["--peer", "torch"], "--peer must be of naive, none; given 'torch'"),
        (["--batch", "0"], "--batch must be a positive integer; given 0"),
        (["--topology", "v9:1x1"], "topology must be like v5e:2x4, of .*; given 'v9:1x1'"),
    ],
)
def test_wrong_options_end_with_one_line(options, says, capsys):
    with pytest.raises(SystemExit) as end:
        accelerators.main(tyro.cli(accelerators.Options, args=options))
    assert end.value.code == 2
    assert re.fullmatch(f"benchmarks.accelerators: error: {says}\n", capsys.readouterr().err)


def test_a_work_counts_operations_of_three_passes():
    forward = AbsentWork("resnet20", "v5e:1x1", 8, train=False).flops()
    assert forward == pytest.approx(2 * 8 * 0.041e9, rel=0.02)  # He 2015: 0.041 G multiply-adds an image
    assert AbsentWork("resnet20", "v5e:1x1", 8).flops() == 3 * forward


def made_up(who, **changes):
    result = {"arch": "resnet20", "topology": "v5e:2x4", "who": who, "mode": "train", "traffic_gb": 1.0}
    result |= {"all_reduces": 39, "copies": 4, "temp_gb": 0.1, "bound_ms": 3.0, "binds": "memory"}
    result |= {"images_per_second_bound": 1000.0, "all_reduced_mb": 2.5, "links_ms": 1.0}
    return result | changes


def test_tables_are_put_into_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators_page, "PAGE", tmp_path / "page.md")
    marks = [
        (accelerators_page.BEGIN.format(name), accelerators_page.END.format(name)) for name in ("steps", "scaling")
    ]
    (tmp_path / "page.md").write_text("before\n" + "between\n".join(f"{begin}old\n{end}" for begin, end in marks))
    accelerators_page.write_page([made_up("ours"), made_up("naive", traffic_gb=2.0)])
    text = (tmp_path / "page.md").read_text()
    assert "old" not in text and text.startswith("before\n") and text.count("between") == 1
    assert "| resnet20 | v5e:2x4 | naive | 2.00 | 39 | 4 | 0.10 | 3.00 | 1,000 | memory |" in text
    assert "| resnet20 | v5e:2x4 | 2.5 | 1.00 | 75.0% |" in text  # 3 of 4 ms
    assert accelerators.row(made_up("ours")).split() == [
        *("resnet20", "train,", "ours", "1.00", "39", "4", "0.10", "3.00", "1000", "(memory", "binds)")
    ]


def test_the_pages_tables_have_their_marks():
    text = (ROOT / "docs" / "accelerators.md").read_text()
    for name, program in (("steps", "accelerators"), ("scaling", "accelerators"), ("errors", "batch_norm")):
        assert text.count(f"<!-- {name} by benchmarks.{program} -->\n") == text.count(f"<!-- end of {name} -->\n") == 1


def test_errors_of_formulas_are_those_of_the_page():
    """Rounding differs between processors; the power of ten does not, where it is not rounding alone."""
    text = (ROOT / "docs" / "accelerators.md").read_text()
    for row in batch_norm.rows():
        kind, mean, running = row[:3]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {kind} | {mean} | {running} |")]
        for measured, printed in zip(row[3:], line.split("|")[4:-1], strict=True):
            if measured == "–":
                assert printed.strip() == "–"
            else:
                assert float(measured) < 1e-6 or float(measured) == pytest.approx(float(printed), rel=0.5)
                assert float(printed) < 1e-6 or float(measured) > 1e-6


@pytest.mark.slow
def test_the_script_for_a_device_runs_on_a_cpu(tmp_path):
    out = tmp_path / "result.jsonl"
    command = [sys.executable, "-m", "benchmarks.on_device", "--small", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    findings = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.stdout == out.read_text()
    parts = [finding["part"] for finding in findings]
    assert parts == ["correctness"] * 4 + ["training"] + ["speed"] * 2
    assert all(finding.get("ok", True) for finding in findings)
    assert [finding["who"] for finding in findings[-2:]] == ["ours", "naive"]


def test_a_wrong_finding_is_an_exit_code(capsys, monkeypatch):
    monkeypatch.setattr(on_device, "correctness", lambda options: iter([{"part": "correctness", "ok": False}]))
    monkeypatch.setattr(on_device, "training", lambda options: iter([]))
    monkeypatch.setattr(on_device, "speed", lambda options: iter([{"part": "speed"}]))
    with pytest.raises(SystemExit) as end:
        on_device.main(on_device.Options(small=True))
    assert end.value.code == 1
    assert len(capsys.readouterr().out.splitlines()) == 2

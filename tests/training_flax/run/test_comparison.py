"""Comparison of runs, from folders written by hand."""

import json

import pytest

from training_flax.run.comparison import AVERAGED, COLOURS, differing_options, main, read_runs, tabulate

EPOCHS = 4


def write_run(folder, *, arch="resnet20", accuracies=(0.5, 0.8, 0.95, 0.9), averaged=(), finished=True, **options):
    """Writes a folder as a run does, with one test accuracy per epoch."""
    folder.mkdir(parents=True)
    config = {"arch": arch, "recipe": "quick-digits", "lr": 0.05, "augment": ["affine"], "model": {"width": None}}
    config |= {"train_examples": 1437, "versions": {"jax": str(folder)}} | options
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for epoch, accuracy in enumerate(accuracies, 1):
        for step in (epoch - 0.5, epoch):
            line = {"split": "train", "step": int(20 * step), "epoch": step, "images_per_second": 100.0 * epoch}
            lines.append(line | {"loss": 2.0 / step, "accuracy": accuracy})
        lines.append({"split": "test", "step": 20 * epoch, "epoch": epoch, "loss": 1.0, "accuracy": accuracy})
    for epoch, accuracy in enumerate(averaged, 1):
        lines.append({"split": AVERAGED, "step": 20 * epoch, "epoch": epoch, "loss": 1.0, "accuracy": accuracy})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        summary = {"parameters": 269_722, "images_per_second": 1234.5, "train_seconds": 66.4}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def rows(text):
    """Parses the table into dicts; cells are at least two spaces apart."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_a_table_says_what_differs_and_what_came_out(tmp_path):
    runs = [
        write_run(tmp_path / "plain"),
        write_run(tmp_path / "averaged", lr=0.1, averaged=(0.3, 0.975), model={"width": 8}),
    ]
    first, second = rows(tabulate(read_runs(runs)))
    assert first == {
        "run": "plain",
        "arch": "resnet20",
        "lr": "0.05",
        "width": "–",
        "parameters": "269,722",
        "steps": "80",
        "best test": "95.00 %",
        "last test": "90.00 %",
        "averaged": "–",
        "images/s": "1,234",
        "train time": "66 s",
    }
    assert (second["lr"], second["width"], second["averaged"]) == ("0.1", "8", "97.50 %")


def test_options_that_are_the_same_have_no_column(tmp_path):
    runs = read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", arch="resnet32", augment=[])])
    assert differing_options(runs) == ["augment"]
    assert differing_options(runs[:1]) == []
    table = rows(tabulate(runs))
    assert [row["augment"] for row in table] == ["affine", "none"]
    assert "averaged" not in table[0]


def test_what_follows_from_the_data_has_no_column(tmp_path):
    facts = {"train_files": "a", "train_bytes": 1, "train_labels": "b", "weights_sum": "c"}
    other = {"train_files": "d", "train_bytes": 2, "train_labels": "e", "weights_sum": "f"}
    runs = read_runs([write_run(tmp_path / "a", **facts), write_run(tmp_path / "b", **other)])
    assert differing_options(runs) == []


def test_the_warm_up_of_no_average_has_no_column(tmp_path):
    """A run that is older than the option differs from a new one only if both keep an average."""
    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new", ema_warmup=True)
    assert differing_options(read_runs([old, new])) == []
    old, new = write_run(tmp_path / "old_ema", ema=0.9), write_run(tmp_path / "new_ema", ema=0.9, ema_warmup=True)
    assert differing_options(read_runs([old, new])) == ["ema_warmup"]


def test_unfinished_runs_have_dashes_for_what_is_not_known_yet(tmp_path, capsys):
    going = write_run(tmp_path / "going", finished=False)
    with (going / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tr')  # an incomplete last line
    begun = write_run(tmp_path / "begun", accuracies=(), finished=False)
    (begun / "metrics.jsonl").unlink()
    assert main([str(going), str(begun), "--out", str(tmp_path / "out.png")]) == 0
    first, second = rows("\n".join(capsys.readouterr().out.splitlines()[:3]))
    assert (first["parameters"], first["steps"], first["last test"], first["images/s"]) == ("–", "80", "90.00 %", "250")
    assert set(second.values()) == {"begun", "resnet20", "–"}


def test_the_picture_has_a_colour_for_each_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / f"run-{i}", averaged=(0.6, 0.7, 0.9, 0.97) if i == 1 else ()) for i in range(9)]
    assert main([str(run) for run in runs]) == 0
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "curves are in compare.png" in capsys.readouterr().out
    assert len(set(COLOURS)) == len(COLOURS)


def test_runs_of_one_name_are_called_by_their_paths(tmp_path):
    folders = [write_run(tmp_path / part / "run") for part in "ab"]
    assert [run.name for run in read_runs(folders)] == [str(folder) for folder in folders]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "'nowhere' is no run: it has no config.json"),
        (["damaged"], "'damaged/config.json' is damaged"),
        (["cut"], "'cut/metrics.jsonl' is damaged"),
        (["run", "--out", "nowhere/out.png"], "out 'nowhere/out.png' cannot be written: No such file or directory"),
        (["run", "--out", "run"], "out 'run' cannot be written"),
        (["run", "--out", "out.xyz"], "Format 'xyz' is not supported"),
    ],
)
def test_wrong_input_gets_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    (write_run(tmp_path / "damaged") / "config.json").write_text("{")
    (write_run(tmp_path / "cut") / "metrics.jsonl").write_text("{\n{}\n")
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("compare: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("out", ["run/metrics.jsonl", "link.png"])
def test_a_run_is_not_written_over(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path / "run") / "config.json"
    (tmp_path / "link.png").symlink_to(config)
    before = config.read_bytes()
    assert main(["run", "--out", out]) == 2
    line = f"compare: error: out '{out}' would replace a file that is read; name another\n"
    assert capsys.readouterr().err == line
    assert config.read_bytes() == before

"""What README and docs say: code that runs, commands that are understood, links that lead somewhere, a whole site."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from training_flax import RECIPES, parse_options, with_recipe
from training_flax.config.checks import check

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("layers_flax", "resnet_flax", "densenet_flax", "weights_flax", "training_flax", "theory_flax")

# What pages show is run with networks of the same classes that compile in seconds, and trained for one step.
SMALLER = {
    "densenet121(num_classes=10)": "densenet121(num_classes=10, block_sizes=(1, 1), growth_rate=4)",
    'resnet50(num_classes=10, stem_type="cifar"': 'resnet50(num_classes=10, stem_type="cifar", width=4',
    "resnet18()": "resnet18(width=4)",
    "resnet20(), resnet56()": "resnet20(width=4), resnet56(width=4)",
    'TrainConfig("resnet20", epochs=3, ': 'TrainConfig("resnet20" , steps=1, width=4, augment=(), ',
    'TrainConfig("resnet20", ': 'TrainConfig("resnet20", steps=1, width=4, augment=(), ',
}
# What must hold of a page's values when it has been run.
LAWS = {
    "README.md": lambda v: v["logits"].shape == (8, 10) and set(v["variables"]) == {"params", "batch_stats"},
    "docs/densenet.md": lambda v: v["logits"].shape == (8, 10) and set(v["updates"]) == {"batch_stats"},
    "docs/training.md": lambda v: v["evaluation"].accuracy == v["result"].summary["test_accuracy"],
    "docs/fit.md": lambda v: v["result"].summary["data"] == "dataset:digits",
    "docs/export.md": lambda v: (
        max(abs(v[name] - v["logits"]).max() for name in ("theirs", "same")) < 1e-5 * abs(v["logits"]).max()
    ),
    "docs/examples.md": lambda v: set(v["variables"]) == {"params", "batch_stats"},
}


def name_of(page):
    return str(page.relative_to(ROOT))


def code_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def said_on(page):
    """What a page says is printed: comments behind a print and on the lines after it, and blocks of text after code."""
    for code, text in re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        expected = ""
        for line in [*code.splitlines(), ""]:
            if expected and line.startswith("# "):
                expected += line[1:]
                continue
            if expected.strip():
                yield expected
            printed = re.match(r"\s*print\(.*\)(?:  # (.*))?$", line)
            expected = (printed[1] or " ") if printed else ""
        if text:
            yield text


def test_the_page_on_architecture_counts_the_lines_to_read():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"\| ([\d,]+) in (\d+) \| (`[^|]+) \|", page)
    assert len(rows) == 3
    for lines, count, names in rows:
        files = [ROOT / name for name in re.findall(r"`(.+?)`", names)]
        assert len(files) == int(count)
        assert sum(len(file.read_text().splitlines()) for file in files) <= int(lines.replace(",", ""))


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=name_of)
def test_code_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {}
    for code in code_of(page):
        for shown, run in SMALLER.items():
            code = code.replace(shown, run)
        exec(compile(code, name_of(page), "exec"), values)
    printed, place = " ".join(capsys.readouterr().out.split()), 0
    for expected in said_on(page):
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("…"))
        found = re.compile(pattern).search(printed, place)
        assert found, expected
        place = found.end()
    assert LAWS.get(name_of(page), lambda values: True)(values)


def test_what_is_made_smaller_is_on_a_page():
    shown = "".join(code for page in PAGES for code in code_of(page))
    assert [text for text in SMALLER if text not in shown] == []


def commands_on(page):
    """The commands of a page that run this project, (module, options); what the shell fills in is a number.

    Without any option it is the name of a command.
    """
    text = page.read_text().replace("\\\n", " ")
    for module, line in re.findall(r"python3? (train\.py|-m [\w.]+)([^`\n|]*)", text):
        module = module.removeprefix("-m ")
        options = shlex.split(re.sub(r"\$\w+", "0", line.split("&&")[0]), comments=True)
        if (options and (ROOT / module.split(".")[0]).is_dir()) or module == "train.py":
            yield module, options


def understand(module, options, monkeypatch):
    """Has the real parser of a command read its options, and checks them as far as can be without files."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    if module in ("train.py", "training_flax"):
        if options not in ([], ["--help"]):  # alone the command shows how to start
            parsed = importlib.import_module("training_flax.train_command").parse(options)
            training = replace(parsed.training, which=None) if parsed.eval_only else parsed.training
            # A run, and weights, know their architecture.
            check(training if training.arch is None and (training.out or training.weights) else with_recipe(training))
    elif module == "theory_flax":
        command = importlib.import_module("theory_flax.__main__")
        parsed = command.parse(options)
        for name in command.CLAIMS if parsed.claim == "all" else [parsed.claim]:
            command.meant_for(name, command.find(name), parsed)
    elif module == "weights_flax":
        command = importlib.import_module("weights_flax.__main__")
        kinds = command.Inspect | command.Convert | command.Export | command.List
        parse_options(kinds, options, prog=module, description="")
    elif module == "training_flax.predict":
        command = importlib.import_module("training_flax.inference.command")
        parse_options(command.CommandLine, options, prog=module, description="")
    elif module == "training_flax.compare":
        command = importlib.import_module("training_flax.run.comparison")
        monkeypatch.setattr(command, "read_runs", list)
        monkeypatch.setattr(command, "draw_comparison", lambda path, runs: None)
        monkeypatch.setattr(command, "tabulate", str)
        assert command.main(options) == 0
    elif module == "training_flax.prepare":
        command = importlib.import_module("training_flax.prepare_command")
        monkeypatch.setattr(command, "prepare_dataset", lambda name, data_dir, source: Path())
        assert command.main(options) == 0
    elif module == "benchmarks.sizes":
        assert set(options) < {"densenet", "resnet"} and len(options) == 1
    else:
        parse_options(importlib.import_module(module).Options, options, prog=module, description="")


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_on(page))], ids=name_of)
def test_commands_are_understood(page, monkeypatch):
    for module, options in commands_on(page):
        understand(module, options, monkeypatch)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("train.py", ["--arch", "resnet20"]),
        ("weights_flax", ["inspect", "FILE"]),
        ("theory_flax", ["nesting"]),
        ("benchmarks.fold", []),
    ],
)
def test_an_option_that_is_not_there_is_not_understood(module, options, monkeypatch):
    understand(module, options, monkeypatch)
    with pytest.raises(ValueError, match="--sky"):
        understand(module, [*options, "--sky", "blue"], monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (page.parent / path).read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


class Html(HTMLParser):
    """What a page of the site can be linked at, what it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("link", "script", "img"):
            self.loaded.append(found.get("href") or found.get("src") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the site, built with warnings as errors, by its path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, "docs", str(folder / "html")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return {path.resolve(): Html(path) for path in (folder / "html").rglob("*.html")}


def test_every_page_is_on_the_site(site):
    built = {path.name for path in site}
    assert {f"{page.stem}.html" for page in PAGES[2:]} <= built


def test_links_of_the_site_lead_somewhere(site):
    for path, page in site.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            there = (path.parent / target).resolve() if target else path
            assert there.exists(), (path.name, link)
            if anchor and there in site:
                assert anchor in site[there].ids, (path.name, link)


def test_the_site_loads_nothing_from_elsewhere(site):
    assert [file for page in site.values() for file in page.loaded if "//" in file] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(site, package):
    (page,) = [page for path, page in site.items() if path.name == f"{package}.html"]
    names = set(importlib.import_module(package).__all__) - {"__version__"}
    assert [n for n in names if f"{package}.{n}" not in page.ids] == []


def test_all_recipes_are_described_as_they_are():
    page = (ROOT / "docs" / "recipes.md").read_text()
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {recipe.source} | {recipe.target} |" in page


def test_every_room_and_module_is_on_the_page_of_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    for package in ("training_flax", "weights_flax"):
        modules = {path.stem for path in (ROOT / package).rglob("*.py")} - {"__init__", "__main__"}
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert modules | rooms <= named


@pytest.mark.slow
def test_promises_name_tests_that_there_are_and_count_their_cases():
    page = (ROOT / "docs" / "promises.md").read_text()
    named = re.findall(r"`(tests/[\w/.:]+)`(?: \((\d+)\))?", page)
    assert len(named) > 20
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "no:cacheprovider"]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    for path, cases in named:
        count = sum(line.startswith((f"{path}::", f"{path}[")) for line in collected)
        assert count == int(cases) if cases else count, (path, count)
    slow = (ROOT / "tests" / "slow.txt").read_text("utf-8").splitlines()
    assert slow == sorted(set(slow))
    assert set(slow) <= set(collected), "python tests/helpers/slow_tests.py writes the list"
    tools = re.findall(r"tests/helpers/\w+\.py", page)
    assert len(tools) == 5
    assert all((ROOT / tool).is_file() for tool in tools)

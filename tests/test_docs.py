"""What README and docs say: code that runs, links that lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (page.parent / path).read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


@pytest.mark.parametrize(("page", "function"), [("README.md", "densenet121"), ("docs/densenet.md", "densenet121")])
def test_the_first_example_runs(page, function):
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    # The same lines with a network of the same class that compiles in seconds.
    assert f"model = {function}(num_classes=10)" in code
    code = code.replace(f"{function}(num_classes=10)", f"{function}(num_classes=10, block_sizes=(1, 1), growth_rate=4)")
    values = {}
    exec(compile(code, page, "exec"), values)
    assert values["logits"].shape == (8, 10)
    assert set(values["variables"]) == {"params", "batch_stats"}
    assert set(values["updates"]) == {"batch_stats"}

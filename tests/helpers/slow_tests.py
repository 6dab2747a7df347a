"""Writes tests/slow.txt: the tests that took over two seconds, and are left out of quick runs.

Measured on two quiet cores, from an empty cache of programs. Tests that are marked in their files stay so.

pytest -n auto --junitxml=times.xml && python tests/helpers/slow_tests.py times.xml
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

SECONDS = 2.0
# Run on both Pythons, whatever they take: one case of what must not differ between versions of JAX.
BOTH = {
    "tests/resnet_flax/test_parity.py::test_resnet_equals_torchvisions[resnet18]",
    "tests/layers_flax/test_devices.py::test_a_batch_spread_over_four_devices_gives_the_same_values_and_derivatives[auto]",
    "tests/training_flax/test_fit.py::test_what_a_run_leaves",
    "tests/test_docs.py::test_code_runs_and_prints_what_the_page_says[docs/getting_started.md]",
}
LIST = Path(__file__).parents[1] / "slow.txt"


def nodes(path):
    """Yields pytest's name of each test in a file of results, and its seconds."""
    for case in ElementTree.parse(path).iter("testcase"):
        module, name = case.get("classname", ""), case.get("name", "")
        yield f"{module.replace('.', '/')}.py::{name}", float(case.get("time", 0))


def main():
    slow = {node for path in sys.argv[1:] for node, seconds in nodes(path) if seconds > SECONDS}
    known = set(LIST.read_text("utf-8").splitlines()) if LIST.exists() else set()
    listed = (known | slow) - BOTH
    LIST.write_text("".join(f"{node}\n" for node in sorted(listed)), "utf-8")
    print(f"{len(listed - known)} more tests are slow, {len(listed)} in all")


if __name__ == "__main__":
    main()

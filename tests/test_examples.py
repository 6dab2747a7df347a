"""The examples do what they say."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close

LLVM = 1
EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
LONGEST = {"train_in_thirty_lines.py": 30, "gradient_identity.py": 20}  # lines that are not blank, without the title


def run(name, capsys):
    """The names a program leaves, and the numbers it prints, line by line."""
    names = runpy.run_path(str(EXAMPLES / name))
    lines = capsys.readouterr().out.splitlines()
    return names, lines


def number(pattern, text):
    return float(re.search(pattern, text)[1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_is_short_and_run_by_a_test(name):
    text = (EXAMPLES / name).read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()[1:]) <= LONGEST.get(name, 58)
    assert f'run("{name}"' in Path(__file__).read_text()
    docstring = text.split('"""')[1]
    assert f"python examples/{name}" in docstring


@pytest.mark.slow
def test_thirty_lines_train_a_network(capsys):
    _, lines = run("train_in_thirty_lines.py", capsys)
    accuracy = re.fullmatch(r"test accuracy ([\d.]+) % of 360 images", lines[-1])
    assert float(accuracy[1]) > 90


def test_the_identity_on_functions_of_ones_own(capsys):
    _, lines = run("gradient_identity.py", capsys)
    shares = re.findall(r"([-\d.]+)%", "\n".join(lines))
    assert number(r"differ by (\S+) ", lines[0]) < 1e-5
    assert len(shares) == 13
    assert sum(map(float, shares)) == pytest.approx(100, abs=2)  # each is rounded


@pytest.mark.slow
def test_a_pretrained_network_learns_from_few_images_what_one_from_scratch_does_not(capsys):
    _, lines = run("fine_tune.py", capsys)
    head, whole, scratch = (number(r"([\d.]+) %", line) for line in lines)
    assert whole > head > 40  # of five classes
    assert whole > scratch + 5


@pytest.mark.slow
def test_trained_features_are_read_better_than_random_ones(capsys):
    _, lines = run("linear_probe.py", capsys)
    random, trained = (number(r"features: ([\d.]+) % right", line) for line in lines)
    assert 20 < random < trained - 30  # of ten classes
    assert trained > 85
    # The function has one least value, wherever one comes from: but for ties, both solvers say the same.
    assert all(number(r"of ([\d.]+) % scikit-learn", line) > 99 for line in lines)


def test_what_is_served_is_what_the_network_says(capsys):
    _, lines = run("export_and_serve.py", capsys)
    assert lines[1] == "the server has imported Flax: False"
    errors = [number(r"at most (\S+)", line) for line in lines[2:]]
    assert len(errors) == 3
    assert max(errors) < 1e-4  # of logits of some units, in float32


@pytest.mark.slow
def test_an_ensemble_errs_less_than_its_members_do(capsys):
    names, lines = run("ensemble_by_vmap.py", capsys)
    together, mean = re.search(r"ensemble: ([\d.]+) %, the mean member ([\d.]+) %", lines[-1]).groups()
    assert float(together) > float(mean) > 85
    # Each member is what its key makes of it alone.
    with jax.enable_x64(True):  # in float32 a ReLU turns on or off by rounding now and then
        images, labels = jnp.asarray(names["images"][:64], float), names["labels"][:64]
        model, optimizer = names["model"].clone(param_dtype=float), names["optimizer"]
        step = names["make_train_step"](model, optimizer)
        keys = jax.random.split(jax.random.key(1), names["MEMBERS"])
        states = jax.jit(jax.vmap(lambda key: names["init_state"](model, optimizer, key, images[:1])))(keys)
        together, _ = jax.jit(jax.vmap(step, in_axes=(0, None, None)))(states, images, labels)
        alone, _ = jax.jit(step)(jax.tree.map(lambda leaf: leaf[2], states), images, labels)
        assert_close(jax.tree.map(lambda leaf: leaf[2], together.params), alone.params, 1e-10)


@pytest.mark.slow
def test_the_mean_of_per_example_gradients_is_the_gradient(capsys):
    names, lines = run("per_example_gradients.py", capsys)
    assert number(r"differ by (\S+) of", lines[0]) < 1e-5
    # The image with the largest norm has it when its gradient is taken alone.
    largest, image = re.search(r"largest norm: (\S+), image (\d+),", lines[1]).groups()
    gradient = jax.jit(jax.grad(names["loss_of_one"]))(
        names["state"].params, names["images"][int(image)], names["labels"][int(image)]
    )
    assert float(names["optax"].tree.norm(gradient)) == pytest.approx(float(largest), rel=0.06)  # two digits are told
    assert float(largest) > 1000 * number(r"smallest norm: (\S+),", lines[2])


@pytest.mark.slow
def test_small_steps_along_the_gradient_fool_a_network_and_noise_does_not(capsys):
    names, lines = run("adversarial_example.py", capsys)
    clean, noisy, adversarial = (number(r"([\d.]+) %$", line) for line in lines)
    assert clean > 90
    assert noisy > clean - 10
    assert adversarial < 50
    moved = names["move"](names["pixels"], names["gradient"]) - names["pixels"]
    assert float(jnp.abs(moved).max()) <= names["EPSILON"] * (1 + 1e-6)


@pytest.mark.slow
def test_the_top_eigenvalue_is_that_of_the_hessian(capsys, request):
    names, lines = run("hessian_top_eigenvalue.py", capsys)
    value, residual = re.search(r"λ = ([\d.]+), ‖Hv - λv‖ / λ = (\S+)", lines[0]).groups()
    assert float(residual) < 1e-4
    # Thirty steps of the power method from elsewhere come to no other.
    vector = np.random.default_rng(1).standard_normal(names["flat"].size)
    for _ in range(30):
        vector = np.asarray(names["product"](vector / np.linalg.norm(vector)), np.float64)
    assert np.linalg.norm(vector) == pytest.approx(float(value), rel=0.01)

    # Of a function whose whole Hessian there is, in float64, with as many iterations as there are dimensions.
    request.getfixturevalue("x64")
    matrix = jnp.asarray(np.random.default_rng(2).standard_normal((8, 12)))
    point = jnp.linspace(-1, 1, 12)
    hessian = np.asarray(jax.hessian(lambda x: jnp.tanh(matrix @ x).sum() + (x**4).sum())(point))
    found, direction = names["top_eigenpair"](lambda vector: hessian @ vector, 12, iterations=12)
    assert found == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-12)
    assert np.linalg.norm(hessian @ direction - found * direction) < 1e-11 * found

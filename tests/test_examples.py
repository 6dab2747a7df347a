"""The examples do what they say."""

import contextlib
import http.client
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close
from PIL import Image

from resnet_flax import resnet20
from training_flax import predict
from weights_flax import export, load_model, save_weights

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with its weights' card, exported from pixels to probabilities."""
    folder = tmp_path_factory.mktemp("exported")
    model = resnet20(num_classes=3, width=4)
    about = dict(class_names=["heron", "owl", "wren"], mean=[0.5] * 3, std=[0.25] * 3, image_shape=(32, 32, 3))
    about |= dict(preprocessing={"crop": 0.875, "crop_rule": "torchvision", "interpolation": "bilinear", "keep": False})
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    save_weights(model, variables, folder / "net.safetensors", **about)
    model, variables, card = load_model(folder / "net.safetensors")
    export(model, variables, folder / "net.onnx", format="onnx", image_shape=(32, 32, 3), card=card, from_pixels=True)
    export(model, variables, folder / "normalised.onnx", format="onnx", image_shape=(32, 32, 3), card=card)
    return folder


def post(port, body):
    """The status and the answer of a server on loopback."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def served(exported, capsys):
    names, lines = run("serve.py", capsys)
    assert lines == []
    server = names["server"](str(exported / "net.onnx"), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def photo(size, format, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(body := io.BytesIO(), format)
    return body.getvalue()


PHOTOS = {
    "JPEG": photo((61, 47), "JPEG"),
    "PNG, upright": photo((33, 80), "PNG"),
    "of the network's size": photo((32, 32), "PNG"),
    "grey": photo((40, 40), "PNG", "L"),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_a_server_answers_what_we_predict(name, exported, served, tmp_path):
    (tmp_path / "photo").write_bytes(PHOTOS[name])
    model, variables, card = load_model(exported / "net.safetensors")
    about = dict(**card["normalisation"], crop=0.875, image_size=32, top=3)
    probabilities, classes = predict(model, variables, tmp_path / "photo", **about)
    status, answer = post(served, PHOTOS[name])
    assert status == 200
    assert [each["class"] for each in answer["classes"]] == [card["class_names"][i] for i in classes[0]]
    found = [each["probability"] for each in answer["classes"]]
    # Pixels are the same; sums of the network, of logits up to ten, are in another order: tests/weights_flax/export.
    np.testing.assert_allclose(found, probabilities[0], rtol=0, atol=64 * np.finfo(np.float32).eps * 10)


@pytest.mark.parametrize("body", [b"", b"hello", PHOTOS["JPEG"][:200], b"\x93NUMPY", bytes(100)])
def test_a_server_refuses_what_is_no_photo_in_one_line(body, served):
    status, answer = post(served, body)
    assert status == 400
    assert list(answer) == ["error"] and answer["error"]
    assert "\n" not in answer["error"]
    assert post(served, PHOTOS["JPEG"])[0] == 200  # and goes on


def test_without_pillow_a_server_takes_arrays(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.save(body := io.BytesIO(), np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    status, answer = post(served, body.getvalue())
    assert status == 200
    assert sum(each["probability"] for each in answer["classes"]) == pytest.approx(1, abs=1e-6)
    np.save(body := io.BytesIO(), np.zeros((31, 32, 3), np.uint8))
    assert post(served, body.getvalue())[0] == 400
    assert post(served, PHOTOS["JPEG"])[0] == 400


def test_a_server_imports_nothing_of_ours_and_refuses_other_files(exported):
    code = f"import runpy; runpy.run_path({str(EXAMPLES / 'serve.py')!r}); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert not {"PIL", "jax", "flax", "onnx", "common_flax", "weights_flax", "training_flax"} & found
    assert "onnxruntime" in found
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(exported / "normalised.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("normalised.onnx needs to be exported with --from-pixels\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_four_commands_lead_from_a_folder_of_photos_to_a_served_prediction(tmp_path):
    """Runs the block of docs/export.md, with a narrow network, few steps and tiny photos."""
    page = (EXAMPLES.parent / "docs" / "export.md").read_text()
    block = page.split("## From a folder of photos to a server\n")[1].split("```sh\n")[1].split("```")[0]
    train, exporting, serving, asking = (shlex.split(line) for line in block.splitlines())
    rng, colours = np.random.default_rng(0), {"red": (200, 40, 40), "blue": (40, 40, 200)}
    for part, name in itertools.product(("train", "test"), colours):
        (tmp_path / "photos" / part / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(rng.normal(colours[name], 20, (40, 36 + number, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{number}.jpg")
    shutil.copy(tmp_path / "photos" / "test" / "red" / "0.jpg", tmp_path / "photo.jpg")
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}

    def words(command):
        assert command[0] == "python"
        return [sys.executable, *(str(EXAMPLES.parent / w) if w.endswith(".py") else w for w in command[1:])]

    small = ["--width", "4", "--steps", "2", "--batch-size", "4", "--image-size", "32"]
    for command in (words(train) + small, words(exporting)):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server = subprocess.Popen([*words(serving), "0"], cwd=tmp_path, env=environment, **pipes)
    try:
        address = server.stdout.readline().strip()
        assert asking[0] == "curl" and asking[-1] == "http://127.0.0.1:8000"
        if shutil.which("curl"):
            command = ["curl", "-s", *asking[1:-1], address]
            answer = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout)
        else:
            _, answer = post(int(address.rpartition(":")[2]), (tmp_path / "photo.jpg").read_bytes())
    finally:
        server.terminate()
        server.communicate()
    assert {each["class"] for each in answer["classes"]} == set(colours)

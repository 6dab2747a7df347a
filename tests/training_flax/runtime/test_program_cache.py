"""The cache of compiled programs: who may write to it, and what a damaged, full or read-only one does."""

import os
import subprocess
import sys
import warnings
import zlib

import jax
import pytest

from training_flax.runtime import compilation
from training_flax.runtime.compilation import keep_compiled_programs
from training_flax.runtime.program_cache import make_private, other_writer, tell_errors_once

OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's folder of caches; JAX' options are as before afterwards."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    monkeypatch.setattr(compilation.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def belongs_to_another(folder, monkeypatch):
    if os.geteuid() == 0:
        os.chown(folder, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o000])
def test_a_new_cache_is_for_the_user_alone(umask, home, capsys):
    before = os.umask(umask)
    try:
        folder = keep_compiled_programs()
    finally:
        os.umask(before)
    assert folder == home / "resnet-densenet-flax" / "jax"
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    for place in (folder, folder.parent):
        assert place.stat().st_mode & 0o777 == 0o700
    assert keep_compiled_programs() == folder
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("place", ["resnet-densenet-flax", "resnet-densenet-flax/jax"])
def test_a_cache_that_others_may_write_to_is_not_used(mode, place, home, capsys):
    (home / "resnet-densenet-flax" / "jax").mkdir(parents=True)
    (home / place).chmod(mode)
    assert keep_compiled_programs() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None
    (line,) = capsys.readouterr().err.splitlines()
    assert f"other users may write to {str(home / place)!r}" in line


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o555])
def test_a_cache_that_others_may_read_is_used(mode, home, capsys):
    folder = home / "resnet-densenet-flax" / "jax"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert keep_compiled_programs() == folder
    assert capsys.readouterr().err == ""


def test_a_cache_of_another_user_is_not_used(home, capsys, monkeypatch):
    folder = home / "resnet-densenet-flax" / "jax"
    folder.mkdir(parents=True)
    belongs_to_another(folder, monkeypatch)
    assert keep_compiled_programs() is None
    assert "belongs to another user" in capsys.readouterr().err


def test_a_link_is_judged_by_its_target(home, tmp_path, capsys):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (home / "resnet-densenet-flax").mkdir(parents=True, mode=0o700)
    (home / "resnet-densenet-flax" / "jax").symlink_to(shared)
    assert keep_compiled_programs() is None
    assert "other users may write" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "resnet-densenet-flax", "resnet-densenet-flax/jax"])
def test_a_file_in_place_of_the_cache_is_named(place, home, capsys):
    file = home / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a file")
    assert keep_compiled_programs() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line


def test_a_folder_that_the_user_names_is_used_with_a_warning(home, tmp_path, capsys, monkeypatch):
    named = tmp_path / "named"
    jax.config.update("jax_compilation_cache_dir", str(named))
    assert keep_compiled_programs() == named
    named.mkdir(mode=0o700)
    assert keep_compiled_programs() == named
    assert capsys.readouterr().err == ""
    named.chmod(0o770)
    assert keep_compiled_programs() == named
    belongs_to_another(named, monkeypatch)
    assert keep_compiled_programs() == named
    assert jax.config.values["jax_compilation_cache_dir"] == str(named)
    writable, foreign = capsys.readouterr().err.splitlines()
    assert "other users may write to" in writable
    assert "belongs to another user" in foreign
    assert not home.exists()


def test_an_address_stays_an_address(home):
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == "gs://bucket/programs"


def test_a_folder_is_judged_by_its_owner_and_mode(tmp_path):
    folder = tmp_path / "project" / "jax"
    assert make_private(folder) is None
    assert other_writer(folder) is None
    with pytest.raises(FileNotFoundError):
        other_writer(tmp_path / "nothing")


def test_warnings_of_the_cache_are_told_once_and_others_shown(capsys):
    shown = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: shown.append(str(message))
        tell_errors_once.__wrapped__("CACHE")
        warnings.filterwarnings("always", "another", UserWarning)
        for name in ("first", "second"):
            text = f"Error writing persistent compilation cache entry for '{name}': OSError: no\n room"
            warnings.warn(text, stacklevel=1)
        warnings.warn("another warning", stacklevel=1)
    assert shown == ["another warning"]
    assert capsys.readouterr().err == "compiled programs are not kept in 'CACHE': OSError: no room\n"


CODE = """
import jax, jax.numpy as jnp
from training_flax import keep_compiled_programs
keep_compiled_programs()
print(float(jax.jit(lambda x: (jnp.sin(x) @ x).sum())(jnp.ones((7, 7)))))
"""


@pytest.mark.slow
def test_a_damaged_cache_costs_a_line_and_no_more(tmp_path):
    cache, environment = tmp_path / "cache", os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def run(*options):
        command = [sys.executable, *options, "-c", CODE]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout, done.stderr.splitlines()

    right = run()
    assert right[1] == []
    cut, *others = sorted(cache.glob("*-cache"))
    cut.write_bytes(cut.read_bytes()[:100])
    for entry in others:
        entry.write_bytes(zlib.compress(b"no program"))
    value, lines = run("-W", "error")
    assert value == right[0]
    assert len(lines) == 1
    assert str(cache) in lines[0]

    (tmp_path / "file").write_text("no folder")
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "file")
    value, lines = run("-W", "error")
    assert value == right[0]
    assert len(lines) == 1

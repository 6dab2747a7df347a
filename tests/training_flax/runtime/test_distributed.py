"""The address on which the first of several processes listens."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training_flax.runtime import distributed
from training_flax.runtime.distributed import listening_address

ROOT = Path(__file__).parents[3]
LISTENING = "0A"
# Joins a run of one process, and prints the addresses, in the kernel's hexadecimal, that listen on its port.
CHILD = """
import json, os, sys
from pathlib import Path
from training_flax.runtime.distributed import join_processes
join_processes(sys.argv[1], 1, 0)
port = f":{int(sys.argv[2]):04X}"
rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
print(json.dumps([row[1] for row in rows if row[3] == "0A" and row[1].endswith(port)]))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def free_port(host):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        try:
            free.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        return free.getsockname()[1]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists what listens")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_coordinator_listens_on_the_host_that_is_named(host):
    port = free_port("::1" if host == "[::1]" else "127.0.0.1")
    clean = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, f"{host}:{port}", str(port)],
        cwd=ROOT,
        env=clean | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    heard = {place.partition(":")[0] for place in json.loads(done.stdout.splitlines()[-1])}
    assert heard
    assert heard <= LOOPBACK
    assert "coordinator" not in done.stderr


def resolving(monkeypatch, **names):
    def getaddrinfo(host, *_, **__):
        if host not in names:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(distributed, "_is_mine", lambda address: address.startswith(("10.", "127.", "::1", "fd")))


@pytest.mark.parametrize(
    ("coordinator", "addresses", "expected"),
    [
        ("10.0.0.1:1234", ["10.0.0.1"], "10.0.0.1:1234"),
        ("127.0.0.1:1234", ["127.0.0.1"], "127.0.0.1:1234"),
        ("[::1]:1234", ["::1"], "[::1]:1234"),
        ("[fd00::1]:1234", ["fd00::1"], "[fd00::1]:1234"),
        ("localhost:1234", ["127.0.0.1"], "127.0.0.1:1234"),
        ("localhost:1234", ["::1", "127.0.0.1"], "localhost:1234"),
        ("host0:1234", ["10.0.0.1"], "10.0.0.1:1234"),
        ("host0:1234", ["10.0.0.1", "fd00::1"], "host0:1234"),
        ("host0:1234", ["203.0.113.9", "10.0.0.1"], "10.0.0.1:1234"),
    ],
)
def test_the_address_is_the_hosts_own(monkeypatch, capsys, coordinator, addresses, expected):
    resolving(monkeypatch, **{coordinator.rpartition(":")[0].strip("[]"): addresses})
    assert listening_address(coordinator) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["203.0.113.9"], "coordinator host0 is 203.0.113.9, which this machine does not have: listening on all"),
        (["127.0.1.1"], "coordinator host0 is 127.0.1.1 here, which no other machine can reach: listening on all"),
    ],
)
def test_a_line_tells_when_it_listens_on_all_addresses(monkeypatch, capsys, addresses, said):
    resolving(monkeypatch, host0=addresses)
    assert listening_address("host0:1234") is None
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "coordinator",
    ["host0", "host0:", ":1234", "host0:0", "host0:70000", "::1:1234", "[::1]", "http://host0:1", "a b:1", "a\nb:1"],
)
def test_other_forms_are_refused(coordinator):
    with pytest.raises(ValueError, match="coordinator must be HOST:PORT"):
        listening_address(coordinator)


def test_a_name_is_waited_for(monkeypatch):
    resolving(monkeypatch)
    monkeypatch.setattr(distributed, "SECONDS_FOR_A_NAME", 0)
    with pytest.raises(ValueError, match="coordinator 'host0' is not known: no such name"):
        listening_address("host0:1234")

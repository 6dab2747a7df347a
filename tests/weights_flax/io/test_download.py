"""Downloads from a server on this machine: a whole file of the right hash, or one line and no file."""

import hashlib
import logging
import os
import resource
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from https_server import certificate, redirect, send, serving

from weights_flax.io import download as module
from weights_flax.io.download import ABANDONED, NotFetched, download

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER = "0" * 64


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(autouse=True)
def trusted(pem, monkeypatch):
    """A machine that trusts the server, and asks no proxy for it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("no_proxy", "127.0.0.1,absent.invalid")


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


RIGHT = {
    "with its length": send(BODY),
    "in chunks, of unknown length": send(BODY, length=None),
    "that calls itself compressed by nothing": send(BODY, Content_Encoding="identity"),
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_a_file_comes_whole_into_a_new_folder(answer, pem, tmp_path, caplog):
    path = tmp_path / "new" / "folder" / "file.pth"
    with serving(pem, {"/file": answer}) as address:
        assert download(f"{address}/file", path, SHA256[:8]) == path
    assert path.read_bytes() == BODY
    assert listed(tmp_path) == ["new/folder/file.pth"]
    (record,) = caplog.records
    assert record.getMessage().startswith("downloads file.pth:") and record.levelno == logging.WARNING
    assert repr(str(path.parent)) in record.getMessage()


TOLD = {
    "by the first server, as the hub does": dict(X_Linked_ETag=f'"{SHA256}"', ETag='"abc"'),
    "in the usual header": dict(ETag=f'"{SHA256}"'),
    "weakly": dict(ETag=f'W/"{SHA256}"'),
}


@pytest.mark.parametrize("headers", TOLD.values(), ids=TOLD)
def test_a_hash_that_is_told_goes_into_the_name(headers, pem, tmp_path):
    with serving(pem, {"/file": send(BODY, **headers)}) as address:
        found = download(f"{address}/file", tmp_path / "resnet50.a1_in1k.safetensors")
    assert found == tmp_path / f"resnet50.a1_in1k-{SHA256[:8]}.safetensors"
    assert found.read_bytes() == BODY


def test_the_hub_tells_the_hash_and_redirects_to_the_file(pem, tmp_path):
    answers = {"/file": send(BODY, ETag='"not a hash"')}
    with serving(pem, answers) as store:
        hub = {"/resolve/file": redirect(f"{store}/file", X_Linked_ETag=f'"{SHA256}"')}
        with serving(pem, hub) as address:
            found = download(f"{address}/resolve/file", tmp_path / "a.safetensors")
    assert found.name == f"a-{SHA256[:8]}.safetensors"
    assert found.read_bytes() == BODY


def silent(handler):
    time.sleep(2)


def halting(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:100])
    handler.wfile.flush()
    time.sleep(2)


def garbage(handler):
    handler.wfile.write(b"\x00\x01garbage\r\n\r\n")


def nothing(handler):
    pass


def half_a_chunk(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"ffff\r\nshort")


WRONG = {
    "another file": (send(BODY[:-1] + b"x"), r"sent another file: its SHA-256 begins with \w{8}…, published is \w{8}…"),
    "a page in its place": (send(b"<html>Please log in</html>"), "sent another file"),
    "nothing, politely": (send(b""), "sent another file"),
    "less than its length": (send(BODY[:5000], length=len(BODY)), "broke off after 5,000 of 10,240 bytes"),
    "half a chunk": (half_a_chunk, "broke off: "),
    "then no more": (halting, r"has sent nothing for 0\.5 seconds"),
    "no answer": (silent, r"cannot be reached: no answer in 0\.5 seconds"),
    "the end of the connection": (nothing, "cannot be reached: Remote end closed connection without response"),
    "no http": (garbage, "cannot be reached: "),
    "403": (send(b"no", code=403), "answers 403 Forbidden"),
    "404": (send(b"no", code=404), "answers 404 Not Found"),
    "500": (send(b"no", code=500), "answers 500 Internal Server Error"),
    "503": (send(b"no", code=503), "answers 503 Service Unavailable"),
    "to http": (redirect("http://127.0.0.1:1/file"), "redirects to 'http://127.0.0.1:1/file', which is not https"),
    "to a file": (redirect("file:///etc/passwd"), "answers 302 .*'file:///etc/passwd' is not allowed"),
    "to ftp": (redirect("ftp://127.0.0.1/x"), "redirects to 'ftp://127.0.0.1/x', which is not https"),
    "in circles": (redirect("/file"), "answers 302 "),
}


@pytest.mark.parametrize("answer, said", WRONG.values(), ids=WRONG)
def test_what_goes_wrong_is_one_line_and_leaves_no_file(answer, said, pem, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5 if answer is silent else 8)
    monkeypatch.setattr(module, "SILENCE", 0.5 if answer is halting else 8)
    with (
        serving(pem, {"/file": answer}) as address,
        pytest.raises(NotFetched, match=rf"^127\.0\.0\.1:\d+ {said}") as error,
    ):
        download(f"{address}/file", tmp_path / "new" / "file.pth", SHA256[:8])
    assert "\n" not in str(error.value)
    assert listed(tmp_path) == []


def test_a_server_that_tells_no_hash_is_refused(pem, tmp_path):
    with (
        serving(pem, {"/file": send(BODY, ETag='"0123abc"')}) as address,
        pytest.raises(NotFetched, match="does not tell the hash"),
    ):
        download(f"{address}/file", tmp_path / "file.safetensors")
    with (
        serving(pem, {"/file": send(BODY, ETag=f'"{OTHER}"')}) as address,
        pytest.raises(NotFetched, match="sent another file"),
    ):
        download(f"{address}/file", tmp_path / "file.safetensors")
    assert listed(tmp_path) == []


def test_a_server_that_is_not_the_one_it_says_is_refused(pem, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    with serving(pem, {"/file": send(BODY)}) as address, pytest.raises(NotFetched, match="certificate") as error:
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert "\n" not in str(error.value)
    with (
        serving(None, {"/file": send(BODY)}) as address,
        pytest.raises(NotFetched, match=r"^127\.0\.0\.1:\d+ cannot be reached: "),
    ):
        download(f"{address.replace('http', 'https')}/file", tmp_path / "file.pth", SHA256[:8])
    with serving(None, {"/file": send(BODY)}) as address, pytest.raises(NotFetched, match="addresses begin with https"):
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert listed(tmp_path) == []


def test_without_a_network_an_error_comes_at_once(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(NotFetched, match=rf"^127\.0\.0\.1:{port} cannot be reached: \[Errno \d+\] Connection refused$"):
        download(f"https://127.0.0.1:{port}/file", tmp_path / "file.pth", SHA256[:8])
    with pytest.raises(NotFetched, match=r"^absent\.invalid cannot be reached: "):
        download("https://absent.invalid/file", tmp_path / "file.pth", SHA256[:8])
    assert time.monotonic() - start < 10
    assert listed(tmp_path) == []


def test_a_full_disk_is_told_before_the_download(pem, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=1000))
    with (
        serving(pem, {"/file": send(BODY)}) as address,
        pytest.raises(ValueError, match=r"^the file has 0\.0 MB; the disk of '.*' has 0\.0 MB free$"),
    ):
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert listed(tmp_path) == []


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_file(pem, tmp_path):
    with (
        serving(pem, {"/file": send(BODY)}) as address,
        pytest.raises(ValueError, match=r"file\.pth' cannot be written: File too large$") as error,
        files_of_at_most(5000),
    ):
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert not isinstance(error.value, NotFetched)
    assert listed(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(pem, tmp_path):
    (tmp_path / "taken").touch()
    with (
        serving(pem, {"/file": send(BODY)}) as address,
        pytest.raises(ValueError, match=r"taken/file\.pth' cannot be written: (File exists|Not a directory)$"),
    ):
        download(f"{address}/file", tmp_path / "taken" / "file.pth", SHA256[:8])
    assert listed(tmp_path) == ["taken"]


def test_several_may_download_the_same_at_once(pem, tmp_path):
    barrier = threading.Barrier(3, timeout=20)

    def together(handler):
        barrier.wait()
        send(BODY)(handler)

    found = []
    with serving(pem, {"/file": together}) as address:
        each = [
            threading.Thread(
                target=lambda: found.append(download(f"{address}/file", tmp_path / "file.pth", SHA256[:8]))
            )
            for _ in range(3)
        ]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
    assert found == [tmp_path / "file.pth"] * 3
    assert listed(tmp_path) == ["file.pth"]
    assert found[0].read_bytes() == BODY


def test_a_download_that_is_interrupted_leaves_no_file(pem, tmp_path, monkeypatch):
    class Bar(module.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "tqdm", Bar)
    with serving(pem, {"/file": send(BODY)}) as address, pytest.raises(KeyboardInterrupt):
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert listed(tmp_path) == []


def test_what_killed_processes_left_is_removed_when_it_is_old(pem, tmp_path):
    old, new = tmp_path / "a.pth.0000.unfinished", tmp_path / "b.pth.0000.unfinished"
    for path, age in ((old, ABANDONED + 60), (new, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    with serving(pem, {"/file": send(BODY)}) as address:
        download(f"{address}/file", tmp_path / "file.pth", SHA256[:8])
    assert listed(tmp_path) == [new.name, "file.pth"]

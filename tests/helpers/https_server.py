"""A server on this machine that speaks https, well or badly, with a certificate of its own."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


def certificate(folder: Path) -> Path:
    """Makes a key and a certificate for 127.0.0.1, both in one file."""
    path = folder / "loopback.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    path.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return path


@contextmanager
def serving(pem: Path | None, answers: dict[str, Answer]) -> Iterator[str]:
    """Serves on a free port; yields its address.

    Args:
        pem: the certificate; None speaks http.
        answers: by path: what a request is answered with.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            with suppress(OSError):  # the client has gone
                answers[self.path](self)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def finish_request(self, request, client_address):
            """Shakes hands in the thread of the request, where one that is refused ends it alone."""
            with suppress(OSError):
                if pem is not None:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(pem)
                    request = context.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)
                if pem is not None:
                    with suppress(OSError):
                        request.unwrap()
            request.close()

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if pem is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(body: bytes, *, length: int | None = -1, code: int = 200, **headers: str) -> Answer:
    """An answer of these bytes.

    Args:
        body: what is sent.
        length: Content-Length; -1 is the body's, None sends chunks.
        code: of the status.
        headers: others; underscores stand for hyphens.
    """

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length is None:
            handler.send_header("Transfer-Encoding", "chunked")
            body_sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            handler.send_header("Content-Length", str(len(body) if length == -1 else length))
            body_sent = body
        handler.end_headers()
        handler.wfile.write(body_sent)

    return answer


def redirect(address: str, **headers: str) -> Answer:
    """An answer that leads to another address."""
    return send(b"", code=302, Location=address, **headers)

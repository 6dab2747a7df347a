"""A network exported to one file, and a server that runs it with JAX alone: python examples/export_and_serve.py

The file holds the program and its weights, for batches of any size.
"""

import contextlib
import http.client
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from resnet_flax import resnet20
from training_flax import normalise, open_dataset
from weights_flax import export

SERVER = """
import http.server, io, pathlib, sys
import jax, jax.export, numpy as np

network = jax.jit(jax.export.deserialize(pathlib.Path(sys.argv[1]).read_bytes()).call)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        images = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
        np.save(answer := io.BytesIO(), network(images))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.getvalue())
    def log_message(self, *said):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, "flax" in sys.modules, flush=True)
server.serve_forever()
"""


def ask(port, images):
    """Asks the server for the logits of a batch."""
    np.save(body := io.BytesIO(), images)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/", body.getvalue())
        return np.load(io.BytesIO(connection.getresponse().read()))


data = open_dataset("digits")
images = np.asarray(normalise(data.test.images, data.mean, data.std))
model = resnet20(num_classes=10, width=8)
variables = model.init(jax.random.key(0), images[:1], train=False)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "network.stablehlo"
    export(model, variables, file, format="stablehlo", image_shape=data.image_shape)
    print(f"{file.stat().st_size:,} bytes written")
    with subprocess.Popen([sys.executable, "-c", SERVER, file], stdout=subprocess.PIPE, text=True) as server:
        try:
            port, flax_is_there = server.stdout.readline().split()
            print(f"the server has imported Flax: {flax_is_there}")
            for size in (1, 7, 64):
                ours = jax.jit(model.apply)(variables, images[:size])
                error = np.abs(ask(int(port), images[:size]) - ours).max()
                print(f"batch of {size}: logits differ by at most {error:.1e}")
        finally:
            server.terminate()

"""Serves a network that was exported to ONNX with --from-pixels: python examples/serve.py net.onnx [PORT]

POST a photo; the answer is JSON, {"classes": [{"class": NAME, "probability": P}, …]}. All that it knows of the network
is in the file's metadata. It needs the standard library and onnxruntime, which brings NumPy; and Pillow to decode and
crop photos: where that is not installed, bodies are uint8 arrays of the network's size, as .npy.
"""

import io
import json
import math
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

LARGEST = 2**25  # bytes of a body


def seen(body, about):
    """What the network sees of a photo or an array, (height, width, channels) uint8."""
    height, width, channels = json.loads(about["image_shape"])
    if body.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(body)).reshape(height, width, channels)
    from PIL import Image, ImageOps

    photo = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    if photo.size != (width, height) or about.get("keep") == "false":
        rule, short = about.get("crop_rule", "torchvision"), height / float(about.get("crop", 0.875))
        short = math.floor(short + 1e-6) if rule == "timm" else round(short)
        cut = (lambda margin: margin) if rule == "centred" else round
        resized = [int(short * side / min(photo.size)) for side in photo.size]
        starts = [cut((side - size) / 2) for side, size in zip(resized, (width, height), strict=True)]
        scale = [side / new for side, new in zip(photo.size, resized, strict=True)]
        ends = [(start + size) * each for start, size, each in zip(starts, (width, height), scale, strict=True)]
        box = [start * each for start, each in zip(starts, scale, strict=True)] + list(map(min, ends, photo.size))
        photo = photo.resize((width, height), Image.Resampling[about.get("interpolation", "bilinear").upper()], box)
    return np.asarray(photo.convert("L" if channels == 1 else "RGB")).reshape(height, width, channels)


def server(path, port=8000):
    """A server of the file on this machine's own address, which others cannot reach."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    most = None if about.get("multi_label") else 5  # an image may have several classes: each has its own probability

    if about.get("pixels") != "0..255":
        sys.exit(f"serve.py: error: {path} does not take pixels; export it with --from-pixels")

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds

        def do_POST(self):
            try:
                size = max(0, min(int(self.headers["Content-Length"]), LARGEST))
                images = seen(self.rfile.read(size), about).transpose(2, 0, 1)[None]
                (found,) = session.run([about["output"]], {about["input"]: images})[0]
                names = json.loads(about.get("class_names", "0")) or list(map(str, range(len(found))))
                best = [{"class": names[i], "probability": float(found[i])} for i in found.argsort()[::-1][:most]]
                code, answer = 200, {"classes": best}
            except Exception as error:  # what is no photo makes Pillow raise many kinds
                code, answer = 400, {"error": " ".join(f"{error}".split())[:200]}
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    http = server(sys.argv[1], *map(int, sys.argv[2:]))
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    http.serve_forever()

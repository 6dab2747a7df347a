"""Serves an ONNX file that was exported with --from-pixels: python examples/serve.py net.onnx [PORT]."""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np  # comes with onnxruntime
import onnxruntime


def _seen(body, about):
    height, width, channels = json.loads(about["image_shape"])
    size = width, height
    if body.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(body)).reshape(height, width, channels)
    from PIL import Image, ImageOps

    photo = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    if photo.size != size or about.get("keep") == "false":
        rule, short = about.get("crop_rule"), height / float(about.get("crop", 0.875))
        short = int(short + 1e-6) if rule == "timm" else round(short)
        resized = (short * np.array(photo.size) / min(photo.size)).astype(int)
        start, scale = (resized - size) / 2, photo.size / resized
        start = start if rule == "centred" else start.round()
        box = (*start * scale, *np.minimum((start + size) * scale, photo.size))
        photo = photo.resize(size, Image.Resampling[about.get("interpolation", "bilinear").upper()], box)
    return np.asarray(photo.convert("L" if channels == 1 else "RGB")).reshape(height, width, channels)


# POST a photo, or without Pillow a uint8 array as .npy; the answer is {"classes": [{"class": …, "probability": …}, …]}
class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            body, about = self.rfile.read(max(0, min(int(self.headers["Content-Length"]), 2**25))), self.server.about
            found = self.server.session.run(None, {about["input"]: _seen(body, about).transpose(2, 0, 1)[None]})[0][0]
            names = json.loads(about.get("class_names", "0")) or list(map(str, range(len(found))))
            best = found.argsort()[::-1][: None if about.get("multi_label") else 5]
            code, answer = 200, {"classes": [{"class": names[i], "probability": float(found[i])} for i in best]}
        except Exception as error:  # what is no photo makes Pillow raise many kinds
            code, answer = 400, {"error": " ".join(f"{error}".split())[:200]}
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def server(path, port=8000):
    """Makes a server that other machines cannot reach; what it knows of the network is in the file's metadata."""
    http = ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
    http.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    http.about = http.session.get_modelmeta().custom_metadata_map
    return http if http.about.get("pixels") == "0..255" else sys.exit(f"{path} needs to be exported with --from-pixels")


if __name__ == "__main__":
    http = server(*sys.argv[1:])
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    http.serve_forever()

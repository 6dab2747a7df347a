"""Charts and pictures for TensorBoard: a folder of events for each split, so that train and test share a chart."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import time as now
from typing import Any

import numpy as np
from PIL import Image

from common_flax.optional import library

EVENTS = "*tfevents*"
NOT_SHOWN = ("split", "step")


class Board:
    """Writes the entries of metrics.jsonl, and pictures, to FOLDER/SPLIT.

    Raises:
        ValueError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        self._library = library("tensorboardX", extra="tensorboard", purpose="tensorboard")
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def begin(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Writes all entries so far, in place of what the folder holds, so that nothing is there twice.

        A run that goes on has taken back entries after its checkpoint; and one that was not shown before has entries
        too. Those that were shown keep their times.
        """
        times: dict[tuple[str, int], float] = {}
        for file in [*self._folder.glob(EVENTS), *self._folder.glob(f"*/{EVENTS}")]:
            for event in self._read(file):
                for value in event.summary.value:
                    # Older versions wrote one folder, with the split before the name.
                    split = value.tag.rpartition("/")[0] or file.parent.name
                    times[split, event.step] = event.wall_time
            file.unlink()
        for entry in entries:
            self.add(entry, times.get((entry["split"], entry["step"])))

    def add(self, entry: Mapping[str, Any], time: float | None = None) -> None:
        """Writes the numbers of an entry; its time is now, or `time` in seconds since 1970."""
        writer, time = self._writer(entry["split"]), now() if time is None else time
        for name, value in entry.items():
            if name not in NOT_SHOWN and value is not None:
                writer.add_scalar(name, value, entry["step"], time)

    def picture(self, split: str, path: Path, step: int) -> None:
        """Writes the picture of a file, under its name; nothing if there is no file."""
        if path.is_file():
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer(split).add_image(path.stem, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is pending, and closes the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, split: str) -> Any:
        if split not in self._writers:
            self._writers[split] = self._library.SummaryWriter(str(self._folder / split))
        return self._writers[split]

    def _read(self, file: Path) -> Iterator[Any]:
        """Yields the events of a file, up to a record that was cut off: length, check sum, event, check sum."""
        protocol = library("tensorboardX.proto.event_pb2", extra="tensorboard", purpose="tensorboard")
        data, start = file.read_bytes(), 0
        while start + 12 <= len(data):
            end = start + 12 + int.from_bytes(data[start : start + 8], "little")
            if end + 4 > len(data):
                return
            yield protocol.Event.FromString(data[start + 12 : end])
            start = end + 4

"""TensorBoard's event files, read back byte by byte."""

from __future__ import annotations

import pathlib
import struct


def scalars(folder: pathlib.Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value of every record: length, CRC, event, CRC (the TFRecord framing).

    No value may be there twice.
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    (path,) = folder.glob("events.out.tfevents.*")
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            assert (value.tag, event.step) not in found
            found[value.tag, event.step] = value.simple_value
        data = data[12 + length + 4 :]
    return found

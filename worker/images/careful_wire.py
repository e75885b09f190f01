"""What the worker and its careful process say to each other: a length, JSON, and for a picture its raw RGB pixels.

No pickle: the process has just decoded what may be an attack on a decoder, and its answers are parsed like any other
untrusted text. Used by both ends, and light: the process starts with it.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from worker.images.limits import ImageLimits

MAX_MESSAGE_BYTES = 1 << 22
"""A reference of a million characters, each escaped, fits; an answer is a few hundred bytes."""


class Closed(Exception):
    """The other end went away."""


def send(channel: socket.socket, message: Mapping[str, Any], pixels: bytes = b"") -> None:
    """One message; raises Closed, or TimeoutError after the channel's timeout."""
    text = json.dumps(message).encode("ascii")
    try:
        channel.sendall(len(text).to_bytes(4, "big") + text)
        channel.sendall(pixels)
    except ConnectionError as error:
        raise Closed from error


def receive(channel: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """One message; raises Closed, TimeoutError after `deadline` (monotonic), ValueError when it is not a message."""
    length = int.from_bytes(receive_bytes(channel, 4, deadline), "big")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("a message that is too long")
    message = json.loads(receive_bytes(channel, length, deadline))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")  # noqa: TRY004 - what json.loads raises for other nonsense
    return message


def receive_bytes(channel: socket.socket, count: int, deadline: float | None = None) -> bytearray:
    """Exactly `count` bytes; raises Closed or TimeoutError."""
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    while done < count:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            got = channel.recv_into(view[done:])
        except ConnectionError as error:
            raise Closed from error
        if not got:
            raise Closed
        done += got
    return buffer


def limits_to_json(limits: ImageLimits) -> dict[str, float]:
    """The limits as a message holds them."""
    return {
        "max_image_bytes": limits.max_image_bytes,
        "max_image_pixels": limits.max_image_pixels,
        "max_side_ratio": limits.max_side_ratio,
    }


def limits_from_json(values: Mapping[str, Any]) -> ImageLimits:
    """The inverse of limits_to_json()."""
    return ImageLimits(**values)

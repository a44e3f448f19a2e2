"""TensorBoard's event files, written directly: two records of a fixed form need no library.

A file is a sequence of TFRecords (length, its checksum, bytes, their checksum), each holding one
protobuf `Event {1: wall time, 2: step, 3: version | 5: Summary {1: Value {1: tag, 2: number}}}`.
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

TAGS = {
    "loss": "train/loss",
    "accuracy": "train/token_accuracy",
    "lr": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "tokens": "train/tokens",
    "eval_loss": "eval/loss",
    "eval_accuracy": "eval/token_accuracy",
    "rewards_chosen": "train/rewards_chosen",
    "rewards_rejected": "train/rewards_rejected",
    "margin": "train/rewards_margin",
    "reward_accuracy": "train/reward_accuracy",
}
CASTAGNOLI = 0x82F63B78


def table() -> Iterator[int]:
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (CASTAGNOLI if value & 1 else 0)
        yield value


TABLE = tuple(table())


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(body: bytes, step: int | None = None) -> bytes:
    clock = b"\x09" + struct.pack("<d", time.time())
    return record(clock + (b"" if step is None else b"\x10" + varint(step)) + body)


class Board:
    """One file of scalars, made with the first of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path: Path | None = None

    def add(self, step: int, values: dict[str, float]) -> None:
        summary = b"".join(
            field(1, field(1, TAGS[name].encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in values.items()
            if name in TAGS
        )
        data = event(field(5, summary), step)
        if self.path is None:
            self.directory.mkdir(exist_ok=True)
            self.path = self.directory / f"events.out.tfevents.{time.time():.0f}.danlu"
            data = event(field(3, b"brain.Event:2")) + data
        with self.path.open("ab") as file:
            file.write(data)

"""TensorBoard's event format, two records of it: pure, so that runs and the console share it.

A file is a sequence of TFRecord frames (length, masked CRC-32C of the length, data, masked CRC-32C
of the data) of the protocol buffer `Event {1: wall_time double, 2: step int64, 3: file_version
string, 5: Summary {1: Value {1: tag string, 2: simple_value float}}}`.
"""

import struct

TAGS = {  # metric → tag; the others keep their name
    "loss": "train/loss",
    "accuracy": "train/token_accuracy",
    "lr": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "tokens": "train/tokens",
    "epoch": "train/epoch",
    "eval_loss": "eval/loss",
    "eval_accuracy": "eval/token_accuracy",
    "rewards_chosen": "train/rewards_chosen",
    "rewards_rejected": "train/rewards_rejected",
    "margin": "train/rewards_margin",
    "reward_accuracy": "train/reward_accuracy",
}


def crc_table() -> list[int]:
    table = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def text(field: int, data: bytes) -> bytes:
    """A field with a length: a string, or a message."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def opening(at: float) -> bytes:
    return frame(struct.pack("<Bd", 0x09, at) + text(3, b"brain.Event:2"))


def scalars(at: float, step: int, values: dict[str, float]) -> bytes:
    summary = b"".join(
        text(1, text(1, tag.encode()) + struct.pack("<Bf", 0x15, value))
        for tag, value in values.items()
    )
    return frame(struct.pack("<Bd", 0x09, at) + b"\x10" + varint(step) + text(5, summary))

"""What emulated targets say to each other over their NVMe/TCP listeners: JSON, a message a line.

It is private to the emulator: it carries what NVMe-oF would (connect, identify, namespace change events, I/O), so that
bdev_nvme of one emulated target attaches subsystems of another. A secret never crosses it; both sides prove that they
hold the same key by an HMAC over a nonce.
"""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

import orjson

LINE_BYTES_MAX = 16 * 1024 * 1024
NONCE_BYTES = 16
COMMAND_BYTES = 64


@dataclass(frozen=True)
class Completion:
    """A completed admin command: its status code and what it transferred to the host."""

    status: int
    data: bytes = b""


def prove(key: bytes, nonce: str, purpose: str) -> str:
    """The proof that one holds `key`, in hex."""
    return hmac.new(key, f"{purpose}:{nonce}".encode(), hashlib.sha256).hexdigest()


def proves(key: bytes | None, nonce: str, purpose: str, proof: str | None) -> bool:
    """Whether the other side holds what this side holds: the same key, or both of them none."""
    if key is None or proof is None:
        return key is None and proof is None
    return hmac.compare_digest(prove(key, nonce, purpose), proof)


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side is gone or does not speak this protocol."""
    try:
        line = await reader.readline()
        message = orjson.loads(line) if line else None
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(orjson.dumps(message) + b"\n")

"""bdev_nvme_send_cmd: a command of the caller's to a controller (module/bdev/nvme/nvme_rpc.c)."""

import base64
import os
import re
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from errno import EINVAL, ENXIO
from typing import Annotated, Any, Literal

from ..fabric.wire import COMMAND_BYTES
from ..registry import ERRNO_FAILURE, INTERNAL_ERROR, NOT_EMULATED, Failure, MethodTable, RpcError, errno_error
from ..schema import U32, DecodeError
from .connection import Connection
from .module import NvmeModule

methods = MethodTable[NvmeModule](Failure(ERRNO_FAILURE.code, ERRNO_FAILURE.message, errno_code=ERRNO_FAILURE.code))

COMMAND_ID = 4
"""The first four are taken by asynchronous event requests."""
_BASE64 = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?\Z")


def _decode(value: Any) -> bytes:
    """URL-safe base64 with its padding. Raises DecodeError."""
    if type(value) is not str or not _BASE64.match(value):
        raise DecodeError(repr(value))
    return base64.urlsafe_b64decode(value)


def _command(value: Any) -> bytes:
    command = _decode(value)
    if len(command) != COMMAND_BYTES:
        raise DecodeError(f"{len(command)} bytes")
    return command


@dataclass(frozen=True)
class SendCommand:
    name: str
    cmd_type: Literal["admin", "io"]
    data_direction: Literal["h2c", "c2h"]
    cmdbuf: Annotated[bytes, _command]
    timeout_ms: U32 = 0
    data_len: U32 = 0
    metadata_len: U32 = 0
    data: Annotated[bytes, _decode] = b""
    metadata: Annotated[bytes, _decode] = b""


@methods.rpc("bdev_nvme_send_cmd", SendCommand)
def send_cmd(module: NvmeModule, params: SendCommand) -> Coroutine[Any, Any, dict[str, str]]:
    """Goes to the first controller of a name, whatever the state of the others."""
    group = module.groups.get(params.name)
    if group is None or (params.data and params.data_len not in (0, len(params.data))):
        raise errno_error(EINVAL)
    if params.cmd_type == "io":
        raise RpcError(NOT_EMULATED, "Operation not supported: bdev_nvme_send_cmd emulates admin commands only")
    connection = group.controllers[0].connection
    if connection is None:
        raise RpcError(INTERNAL_ERROR, os.strerror(ENXIO))
    return _send(connection, params)


async def _send(connection: Connection, params: SendCommand) -> dict[str, str]:
    reads = params.data_direction == "c2h"
    completion = await connection.admin(params.cmdbuf, params.data_len or len(params.data))
    queue_head = connection.admin_queue_head
    entry = struct.pack("<8xHHHH", queue_head, 0, COMMAND_ID, completion.status << 1)
    answer = {"cpl": base64.urlsafe_b64encode(entry).decode()}
    if reads and params.data_len:
        data = completion.data.ljust(params.data_len, b"\0")
        answer["data"] = base64.urlsafe_b64encode(data).decode()
    return answer

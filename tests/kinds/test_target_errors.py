"""What the target answers to the calls of volumes, vhost devices and paths, and what a client is told.

The answers are those of SPDK's sources (module/bdev/*/bdev_*_rpc.c, lib/vhost/vhost_rpc.c, lib/accel/accel_rpc.c).
ABORTED and UNAVAILABLE propose another try: only for what may be over by then.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds.cases import KEY
from tests.kinds.world import World, failing, path_to, pci

Make = Callable[[World], Any]


def _malloc(world: World) -> Any:
    return world.malloc_volume("vol")


def _null(world: World) -> Any:
    return world.null_volume("vol")


def _aio(world: World) -> Any:
    return world.make("AioVolume", "vol", {"filename": world.file("file", 2048), "block_size": 512})


def _encrypted(world: World) -> Any:
    if world.target.bdev("base") is None:
        world.malloc_volume("base")
    cipher = {"key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    return world.make("EncryptedVolume", "vol", {"volume_name_ref": "base", **cipher})


def _blk(world: World) -> Any:
    if world.target.bdev("base") is None:
        world.malloc_volume("base")
    return world.make("VirtioBlk", "dev", {"volume_name_ref": "base", "pcie_id": pci(1)})


def _scsi(world: World) -> Any:
    return world.make("VirtioScsiTarget", "dev", {})


def _path(world: World) -> Any:
    world.array()
    if not world.all("NvmeRemoteController"):
        world.remote_controller()
    return world.make("NvmePath", "p0", path_to(world.ports[0]), "nvmeRemoteControllers/array")


_INVALID, _STATE, _NOT_FOUND = "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"
_ROOM, _AGAIN, _PEER, _EXISTS = "RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE", "ALREADY_EXISTS"
_DECODE = (-32603, "spdk_json_decode_object failed", _STATE)
_NO_METHOD = (-32601, "Method not found", _STATE)
_INTERNAL = (-32603, "Internal error", _AGAIN)


def _number(number: int, wanted: str) -> tuple[int, str, str]:
    """An errno as bdev methods answer it."""
    return -number, os.strerror(number), wanted


def _words(number: int, wanted: str) -> tuple[int, str, str]:
    """An errno as vhost methods answer it."""
    return -32602, os.strerror(number), wanted


_COMMON = (_number(errno.ENOMEM, _ROOM), _DECODE, _NO_METHOD, _INTERNAL)
_TABLE: tuple[tuple[Make, str, tuple[tuple[int, str, str], ...]], ...] = (
    (_malloc, "bdev_malloc_create", (*_COMMON, _number(errno.EINVAL, _INVALID), _number(errno.EEXIST, _AGAIN))),
    (_null, "bdev_null_create", (*_COMMON, _number(errno.EINVAL, _INVALID), _number(errno.EEXIST, _AGAIN))),
    (
        _aio,
        "bdev_aio_create",
        (
            *_COMMON,
            *(_number(each, _INVALID) for each in (errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)),
            *(_number(each, _INVALID) for each in (errno.ELOOP, errno.EOVERFLOW, errno.EFBIG)),
            *(_number(each, _STATE) for each in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EBUSY)),
            *(_number(each, _STATE) for each in (errno.ENXIO, errno.ENODEV, errno.EIO, errno.EOPNOTSUPP)),
            *(_number(each, _ROOM) for each in (errno.EMFILE, errno.ENFILE, errno.ENOSPC)),
            _number(errno.ENOENT, _NOT_FOUND),
            _number(errno.EEXIST, _AGAIN),
        ),
    ),
    (
        _encrypted,
        "accel_crypto_key_create",
        (
            (-32602, "failed to create DEK, rc -22", _INVALID),
            (-32602, "failed to create DEK, rc -12", _ROOM),
            (-32602, "failed to create DEK, rc -95", _STATE),
            (-32700, "spdk_json_decode_object failed", _STATE),
            _NO_METHOD,
        ),
    ),
    (
        _encrypted,
        "bdev_crypto_create",
        (
            _number(errno.EINVAL, _INVALID),
            _number(errno.ENOMEM, _ROOM),
            _number(errno.EPERM, _STATE),
            _number(errno.EEXIST, _STATE),
            (-32602, "Key was not found", _AGAIN),
            (-32700, "Failed to decode crypto disk create parameters.", _STATE),
            (-32603, "Memory allocation failed", _AGAIN),
            _NO_METHOD,
        ),
    ),
    (
        _blk,
        "vhost_create_blk_controller",
        (
            _words(errno.EINVAL, _INVALID),
            _words(errno.ENOMEM, _ROOM),
            _words(errno.EIO, _STATE),
            _words(errno.EPERM, _STATE),
            _NO_METHOD,
        ),
    ),
    (
        _scsi,
        "vhost_create_scsi_controller",
        (_words(errno.EINVAL, _INVALID), _words(errno.ENOMEM, _ROOM), _words(errno.EIO, _STATE), _NO_METHOD),
    ),
    (
        _path,
        "bdev_nvme_attach_controller",
        (
            *(_number(each, _PEER) for each in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)),
            *(_number(each, _PEER) for each in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)),
            *(_number(each, _STATE) for each in (errno.EINVAL, errno.ENOKEY, errno.EACCES, errno.EOPNOTSUPP)),
            _number(errno.ENOMEM, _ROOM),
            (-errno.EALREADY, "A controller named array already exists and multipath is disabled", _STATE),
            (-errno.EALREADY, "A controller named array already exists with the specified network path", _EXISTS),
            (-errno.EINVAL, "A controller named array already exists, but uses a different subnqn (x)", _STATE),
            (-32602, "Invalid parameters", _STATE),
            _DECODE,
            _NO_METHOD,
        ),
    ),
)  # fmt: skip
_ROWS = [(make, method, answer) for make, method, answers in _TABLE for answer in answers]


@pytest.mark.parametrize(
    ("make", "method", "answer"), _ROWS, ids=[f"{method} {code} {words}" for _, method, (code, words, _) in _ROWS]
)
def test_each_answer_of_the_target_has_its_code(
    frail: World, make: Make, method: str, answer: tuple[int, str, str]
) -> None:
    code, words, wanted = answer
    frail.target.rpc("emulator_inject_fault", method=method, action="error", code=code, message=words)
    problem = failing(lambda: make(frail))
    assert problem.code == wanted, problem.message
    frail.target.rpc("emulator_clear_faults")
    make(frail)


# Answers that a target gives by itself


@pytest.mark.parametrize(
    ("put", "code", "why"),
    [
        (lambda path: path.mkdir(), _INVALID, "directory"),
        (lambda path: path.symlink_to(path), _INVALID, "circle"),
        (lambda path: path.symlink_to("nowhere"), _NOT_FOUND, "no such file"),
        (lambda path: path.write_bytes(bytes(1000)), _INVALID, "multiple"),
        (lambda path: path.write_bytes(b""), _INVALID, "block"),
    ],
)
def test_what_cannot_be_a_volume_is_refused_for_its_reason(world: World, put: Any, code: str, why: str) -> None:
    path = world.folder / "disk"
    put(path)
    problem = failing(lambda: world.make("AioVolume", "vol", {"filename": str(path), "block_size": 512}))
    assert (problem.code, problem.field) == (code, "aio_volume.filename")
    assert why in problem.message
    assert str(path) in problem.message
    assert world.target.bdev("vol") is None


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_a_path_that_can_be_no_files_is_refused_for_good(world: World, name: str) -> None:
    world.file("file", 1)
    filename = str(world.folder / name)
    problem = failing(lambda: world.make("AioVolume", "vol", {"filename": filename, "block_size": 512}))
    assert (problem.code, problem.field) == (_INVALID, "aio_volume.filename")


def test_a_text_that_no_target_can_read_is_refused(world: World) -> None:
    world.quiet()
    for noun, resource, field in (
        ("AioVolume", {"filename": "/tmp/a\0b", "block_size": 512}, "filename"),
        ("VirtioBlk", {"volume_name_ref": "a\0b", "pcie_id": pci(1)}, "volume_name_ref"),
    ):
        problem = failing(lambda noun=noun, resource=resource: world.make(noun, "vol", resource))  # type: ignore[misc]
        assert problem.code == _INVALID
        assert problem.field.endswith(field)


UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"


@pytest.mark.parametrize("noun", ["MallocVolume", "NullVolume", "AioVolume"])
def test_a_uuid_that_another_bdev_has_is_named(world: World, noun: str) -> None:
    world.foreign.add("theirs")
    world.target.rpc("bdev_null_create", name="theirs", num_blocks=2048, block_size=512, uuid=UUID)
    size = {"filename": world.file("file", 2048)} if noun == "AioVolume" else {"blocks_count": 2048}
    problem = failing(lambda: world.make(noun, "vol", {"block_size": 512, "uuid": UUID, **size}))
    world.target.rpc("bdev_null_delete", name="theirs")
    assert problem.code == "ALREADY_EXISTS"
    assert problem.field.endswith(".uuid")
    assert "theirs" in problem.message


def test_the_cause_is_what_was_seen_before_anything_was_taken_back(frail: World) -> None:
    """A subsystem whose host is refused is there while the cause is looked for: it was not lost by the target."""
    frail.target.rpc("emulator_inject_fault", method="nvmf_subsystem_add_host", action="error", count=1)
    host = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
    problem = failing(lambda: frail.subsystem(hostnqn=host))
    assert "not on the target any more" not in problem.message
    assert "Injected fault" in problem.message

from __future__ import annotations

import errno
import os

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from opi_spdk_bridge import errors
from opi_spdk_bridge.spdk import errors as spdk_errors
from opi_spdk_bridge.spdk.errors import SpdkError, undiagnosed


def details(status: status_pb2.Status) -> dict[str, Message]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.ResourceInfo)
    found: dict[str, Message] = {}
    for packed in status.details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.InvalidArgument, code_pb2.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (errors.NotFound, code_pb2.NOT_FOUND, "NOT_FOUND"),
        (errors.AlreadyExists, code_pb2.ALREADY_EXISTS, "ALREADY_EXISTS"),
        (errors.FailedPrecondition, code_pb2.FAILED_PRECONDITION, "FAILED_PRECONDITION"),
        (errors.Aborted, code_pb2.ABORTED, "ABORTED"),
        (errors.ResourceExhausted, code_pb2.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
        (errors.Unavailable, code_pb2.UNAVAILABLE, "UNAVAILABLE"),
        (errors.DeadlineExceeded, code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (errors.ConnectionLost, code_pb2.UNAVAILABLE, "OUTCOME_UNKNOWN"),
        (errors.AnswerTimeout, code_pb2.DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN"),
        (errors.TargetFailure, code_pb2.ABORTED, "TARGET_FAILURE"),
    ],
)
def test_each_error_has_its_code_and_reason(error: type[errors.BridgeError], code: int, reason: str) -> None:
    status = errors.to_status(error("what is wrong", holder="x"))
    info = details(status)["ErrorInfo"]
    assert (status.code, status.message) == (code, "what is wrong")
    assert info == error_details_pb2.ErrorInfo(reason=reason, domain="opi-spdk-bridge", metadata={"holder": "x"})


def test_the_field_travels_as_a_field_violation() -> None:
    status = errors.to_status(errors.InvalidArgument("too large", field="null_volume.blocks_count"))
    violation = error_details_pb2.BadRequest.FieldViolation(field="null_volume.blocks_count", description="too large")
    assert details(status)["BadRequest"] == error_details_pb2.BadRequest(field_violations=[violation])


def test_the_resource_travels_as_resource_info() -> None:
    status = errors.to_status(errors.NotFound("it is not there", resource="nullVolumes/a"))
    wanted = error_details_pb2.ResourceInfo(resource_name="nullVolumes/a", description="it is not there")
    assert details(status)["ResourceInfo"] == wanted


def test_without_field_and_resource_only_the_reason_travels() -> None:
    assert set(details(errors.to_status(errors.Unavailable("away")))) == {"ErrorInfo"}


@pytest.mark.parametrize("error", [ValueError("a secret"), SpdkError("m", -22, "a secret"), KeyError("a secret")])
def test_what_is_no_error_of_the_bridge_is_internal_and_keeps_its_text_to_itself(error: Exception) -> None:
    status = errors.to_status(error)
    assert status.code == code_pb2.INTERNAL
    assert "secret" not in str(status)


# The target's errors


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (-errno.EEXIST, errors.AlreadyExists),
        (-errno.ENODEV, errors.NotFound),
        (-errno.ENOENT, errors.NotFound),
        (-errno.ENOMEM, errors.ResourceExhausted),
        (-errno.EINVAL, errors.InvalidArgument),
        (-errno.EPERM, errors.FailedPrecondition),
        (-errno.EBUSY, errors.FailedPrecondition),
        (-32601, errors.FailedPrecondition),
        (-32602, errors.TargetFailure),
        (-32603, errors.TargetFailure),
        (-12345, errors.TargetFailure),
    ],
)
def test_an_undiagnosed_error_of_the_target_is_mapped_by_its_errno(code: int, error: type[Exception]) -> None:
    mapped = undiagnosed(SpdkError("bdev_null_create", code, "its words"))
    assert type(mapped) is error
    assert "bdev_null_create" in mapped.message


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_trying_again_is_proposed_only_where_it_can_help(number: int) -> None:
    """Whether the errno comes as the code, or as the words under a JSON-RPC code."""
    helps = {errno.EAGAIN, errno.EINTR, errno.ECANCELED, errno.EINPROGRESS, errno.EDEADLK, errno.ESTALE}
    for error in (
        SpdkError("m", -number, os.strerror(number)),
        SpdkError("m", -32602, os.strerror(number)),
        SpdkError("m", -32602, f"Failed to configure it: {os.strerror(number)}"),
        SpdkError("m", -32602, f"failed to create DEK, rc -{number}"),
    ):
        code = errors.to_status(undiagnosed(error)).code
        unknown = number not in spdk_errors._ERRNO
        assert code != code_pb2.INTERNAL
        assert (code == code_pb2.ABORTED) == (number in helps or (unknown and error.code == -number))


@pytest.mark.parametrize(
    ("code", "words", "wanted"),
    [
        (-32602, "Invalid parameters", code_pb2.FAILED_PRECONDITION),
        (-32602, "Invalid argument", code_pb2.INVALID_ARGUMENT),
        (-32602, "Key was not found", code_pb2.FAILED_PRECONDITION),
        (-32602, "Input/output error", code_pb2.FAILED_PRECONDITION),
        (-32602, "Device or resource busy", code_pb2.FAILED_PRECONDITION),
        (-32602, "Failed to configure rate limit: Resource temporarily unavailable", code_pb2.ABORTED),
        (-32603, "spdk_json_decode_object failed", code_pb2.FAILED_PRECONDITION),
        (-32700, "spdk_json_decode_object failed", code_pb2.FAILED_PRECONDITION),
        (-32600, "Invalid request", code_pb2.FAILED_PRECONDITION),
        (-32603, "Internal error", code_pb2.ABORTED),
        (22, "Controller x does not exist", code_pb2.INVALID_ARGUMENT),
        (-21, "Is a directory", code_pb2.INVALID_ARGUMENT),
        (-36, "File name too long", code_pb2.INVALID_ARGUMENT),
        (-24, "Too many open files", code_pb2.RESOURCE_EXHAUSTED),
        (-113, "No route to host", code_pb2.UNAVAILABLE),
    ],
)
def test_what_the_target_says_has_its_code(code: int, words: str, wanted: int) -> None:
    assert errors.to_status(undiagnosed(SpdkError("m", code, words))).code == wanted


def test_an_undiagnosed_error_repeats_the_targets_words() -> None:
    assert "its words" in undiagnosed(SpdkError("m", -32603, "its words")).message


def test_gone_is_told_by_errno_or_words() -> None:
    assert SpdkError("m", -errno.ENODEV, "No such device").gone
    assert SpdkError("m", -32602, "Subsystem nqn not found").gone
    assert not SpdkError("m", -32602, "Invalid parameters").gone


def test_exists_is_told_by_errno_or_words() -> None:
    assert SpdkError("m", -errno.EEXIST, "File exists").exists
    assert SpdkError("m", -32602, "Transport type 'TCP' already exists").exists
    assert not SpdkError("m", -32602, "Invalid parameters").exists

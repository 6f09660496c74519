"""The error tree, and the one table from an error to its gRPC status.

Every error names what is wrong and what would be right. `field` is the path of the offending request field,
`resource` the name of the resource concerned; both travel to the client as details of the status
(google.rpc.BadRequest, ResourceInfo, ErrorInfo: AIP-193).
"""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "opi-spdk-bridge"


class BridgeError(Exception):
    """An error with a message that is meant for the client."""

    code: int = code_pb2.INTERNAL
    reason = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", resource: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.resource = resource
        self.metadata = metadata


class InvalidArgument(BridgeError):
    """The request can never succeed as it is."""

    code = code_pb2.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class NotFound(BridgeError):
    """What the request names does not exist."""

    code = code_pb2.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(BridgeError):
    """Another resource, or something on the target that is not ours, has the name or identity."""

    code = code_pb2.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class FailedPrecondition(BridgeError):
    """The request is right but the state of the bridge or of the target forbids it."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Unauthenticated(BridgeError):
    """Nobody knows who asks."""

    code = code_pb2.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(BridgeError):
    """Who asks may not do that."""

    code = code_pb2.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Aborted(BridgeError):
    """A conflict that may be gone when the client tries again."""

    code = code_pb2.ABORTED
    reason = "ABORTED"


class ResourceExhausted(BridgeError):
    """The bridge or the target has no room for this."""

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class Unavailable(BridgeError):
    """The target, or the store, cannot be reached: nothing was done."""

    code = code_pb2.UNAVAILABLE
    reason = "UNAVAILABLE"


class PeerUnreachable(BridgeError):
    """The target cannot reach what it was to connect to."""

    code = code_pb2.UNAVAILABLE
    reason = "PEER_UNREACHABLE"


class DeadlineExceeded(BridgeError):
    """The call's deadline passed before anything was asked of the target: nothing was done."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class OutcomeUnknown(BridgeError):
    """The request left for the target and no answer came: it may have been carried out or not. Repeating is safe."""

    reason = "OUTCOME_UNKNOWN"


class ConnectionLost(OutcomeUnknown):
    """The connection broke while the target had the request."""

    code = code_pb2.UNAVAILABLE


class NotStored(OutcomeUnknown):
    """The target did it, but the store could not be told."""

    code = code_pb2.UNAVAILABLE


class AnswerTimeout(OutcomeUnknown):
    """The deadline passed while the target had the request."""

    code = code_pb2.DEADLINE_EXCEEDED


class AnswerUnreadable(OutcomeUnknown):
    """The target answered something that cannot be read."""

    code = code_pb2.ABORTED


class Unimplemented(BridgeError):
    """There is no such method, or not for this."""

    code = code_pb2.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class TargetFailure(BridgeError):
    """The target failed in a way for which no cause could be found; its own words are in the message.

    FAILED_PRECONDITION instead of ABORTED where it would refuse the same again.
    """

    code = code_pb2.ABORTED
    reason = "TARGET_FAILURE"

    def __init__(
        self, message: str, *, field: str = "", resource: str = "", may_succeed_later: bool = True, **metadata: str
    ) -> None:
        super().__init__(message, field=field, resource=resource, **metadata)
        if not may_succeed_later:
            self.code = code_pb2.FAILED_PRECONDITION


def to_status(error: BaseException) -> status_pb2.Status:
    """The google.rpc.Status of any exception; what is not a BridgeError becomes INTERNAL without its text."""
    if not isinstance(error, BridgeError):
        return status_pb2.Status(code=code_pb2.INTERNAL, message="internal error: see the bridge's log")
    status = status_pb2.Status(code=error.code, message=error.message)
    _attach(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.resource:
        _attach(status, error_details_pb2.ResourceInfo(resource_name=error.resource, description=error.message))
    return status


def _attach(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)

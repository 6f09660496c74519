"""What a JSON-RPC call can end in: an error the target answered, a lost connection, a deadline.

SPDK answers negative errno values in some methods and JSON-RPC codes (-326xx) with free text in others; the code often
does not tell the cause. These errors keep what the target said; the kinds find out what it meant.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from opi_spdk_bridge import errors

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMETERS = -32602
INTERNAL_ERROR = -32603

_LARGEST_ERRNO = 4095
_BY_WORDS = {os.strerror(number): number for number in errno.errorcode}
_RETURN_CODE = re.compile(r"\brc:? -?(\d+)$")
_UNDECODED = "spdk_json_decode_object failed"


class SpdkError(Exception):
    """The target answered an error: definite, the call had no effect."""

    def __init__(self, method: str, code: int, message: str) -> None:
        self.method = method
        self.code = code
        self.message = message.strip()
        super().__init__(f"{method}: {self.message} ({code})")

    @property
    def errno(self) -> int | None:
        """The errno value in the code, or in the words under a JSON-RPC code; None where there is none."""
        if 0 < abs(self.code) <= _LARGEST_ERRNO:
            return abs(self.code)
        told = _RETURN_CODE.search(self.message)
        return int(told[1]) if told else _BY_WORDS.get(self.message.rpartition(": ")[2])

    def is_errno(self, *numbers: int) -> bool:
        """Whether the target told one of these errno values (given positive, as in the errno module)."""
        return self.errno in numbers

    @property
    def is_invalid_parameters(self) -> bool:
        """The target's answer to many different mistakes."""
        return self.code == INVALID_PARAMETERS and self.message == "Invalid parameters"

    @property
    def gone(self) -> bool:
        """The target says that what the call names is not there."""
        if self.code == METHOD_NOT_FOUND:
            return False
        said = self.message == "No key object found" or self.message.endswith(("not found", "does not exist"))
        return said or self.is_errno(errno.ENODEV, errno.ENOENT, errno.ENOKEY, errno.ENXIO)

    @property
    def busy(self) -> bool:
        """The target cannot do it now (EAGAIN); for limits on a bdev that nothing has open, never."""
        return self.is_errno(errno.EAGAIN)

    @property
    def exists(self) -> bool:
        """The target says that the name is taken."""
        return "exists" in self.message or self.is_errno(errno.EEXIST, errno.EALREADY)


_NEVER = (  # as the request is, whatever else changes
    errno.EINVAL, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.E2BIG, errno.EDOM, errno.ERANGE,
    errno.EFBIG, errno.EOVERFLOW, errno.EILSEQ, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT,
)  # fmt: skip
_NOT_AS_THINGS_ARE = (
    errno.EPERM, errno.EACCES, errno.EROFS, errno.EBUSY, errno.ETXTBSY, errno.ENXIO, errno.EIO, errno.ENOKEY,
    errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.ENOTEMPTY, errno.EBADF, errno.EKEYREJECTED,
    errno.EKEYREVOKED, errno.EKEYEXPIRED,
)  # fmt: skip
_NO_ROOM = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS)
_NOBODY_THERE = (
    errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTUNREACH, errno.EHOSTDOWN,
    errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN, errno.EPIPE,
)  # fmt: skip
_MAY_BE_OVER = (errno.EAGAIN, errno.EINTR, errno.ECANCELED, errno.EINPROGRESS, errno.EDEADLK, errno.ESTALE)

_Make = Callable[[str], errors.BridgeError]
_ERRNO: dict[int, _Make] = {
    errno.EEXIST: errors.AlreadyExists,
    errno.EALREADY: errors.AlreadyExists,
    errno.ENOENT: errors.NotFound,
    errno.ENODEV: errors.NotFound,
    **dict.fromkeys(_NEVER, errors.InvalidArgument),
    **dict.fromkeys(_NOT_AS_THINGS_ARE, errors.FailedPrecondition),
    **dict.fromkeys(_NO_ROOM, errors.ResourceExhausted),
    **dict.fromkeys(_NOBODY_THERE, errors.PeerUnreachable),
    **dict.fromkeys(_MAY_BE_OVER, errors.Aborted),
}


def undiagnosed(error: SpdkError) -> errors.BridgeError:
    """The best status for an error whose cause nobody found: by errno, else TargetFailure with the target's words.

    ABORTED only where the same call may succeed the next time: not for parameters that the target does not take.
    """
    said = f"the SPDK target refused {error.method}: {error.message}"
    if error.code == METHOD_NOT_FOUND:
        return errors.FailedPrecondition(f"this SPDK target has no method {error.method}")
    make = _ERRNO.get(error.errno or 0)
    if make is not None:
        return make(said)
    refused = error.code in (PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMETERS) or error.message == _UNDECODED
    return errors.TargetFailure(said, may_succeed_later=not refused)

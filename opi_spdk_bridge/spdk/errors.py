"""What a JSON-RPC call can end in: an error the target answered, a lost connection, a deadline.

SPDK answers negative errno values in some methods and JSON-RPC codes (-326xx) with free text in others; the code often
does not tell the cause. These errors keep what the target said; the kinds find out what it meant.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from opi_spdk_bridge import errors

INVALID_PARAMETERS = -32602
INTERNAL_ERROR = -32603
METHOD_NOT_FOUND = -32601


class SpdkError(Exception):
    """The target answered an error: definite, the call had no effect."""

    def __init__(self, method: str, code: int, message: str) -> None:
        self.method = method
        self.code = code
        self.message = message.strip()
        super().__init__(f"{method}: {self.message} ({code})")

    def is_errno(self, *numbers: int) -> bool:
        """Whether the code is one of these errno values (given positive, as in the errno module)."""
        return -self.code in numbers

    @property
    def is_invalid_parameters(self) -> bool:
        """The target's answer to many different mistakes."""
        return self.code == INVALID_PARAMETERS and self.message == "Invalid parameters"

    @property
    def gone(self) -> bool:
        """The target says that what the call names is not there."""
        said = self.message in ("No such device", "No key object found")
        said = said or self.message.endswith(("not found", "does not exist"))
        return said or self.is_errno(errno.ENODEV, errno.ENOENT, errno.ENOKEY, errno.ENXIO)

    @property
    def busy(self) -> bool:
        """The target cannot do it now (EAGAIN); for limits on a bdev that nothing has open, never."""
        return self.is_errno(errno.EAGAIN) or self.message.endswith(os.strerror(errno.EAGAIN))

    @property
    def exists(self) -> bool:
        """The target says that the name is taken."""
        said = "exists" in self.message or self.message.endswith(f"rc -{errno.EEXIST}")
        return said or self.is_errno(errno.EEXIST, errno.EALREADY)


_ERRNO: dict[int, Callable[[str], errors.BridgeError]] = {
    errno.EEXIST: errors.AlreadyExists,
    errno.ENOENT: errors.NotFound,
    errno.ENODEV: errors.NotFound,
    errno.ENOMEM: errors.ResourceExhausted,
    errno.ENOSPC: errors.ResourceExhausted,
    errno.EINVAL: errors.InvalidArgument,
    errno.EPERM: errors.FailedPrecondition,
    errno.EBUSY: errors.FailedPrecondition,
    errno.EOPNOTSUPP: errors.FailedPrecondition,
    errno.ENOKEY: errors.FailedPrecondition,
    errno.EIO: errors.PeerUnreachable,
    errno.ETIMEDOUT: errors.PeerUnreachable,
    errno.ECONNREFUSED: errors.PeerUnreachable,
}


def undiagnosed(error: SpdkError) -> errors.BridgeError:
    """The best status for an error whose cause nobody found: by errno, else TargetFailure with the target's words."""
    said = f"the SPDK target refused {error.method}: {error.message}"
    if error.code == METHOD_NOT_FOUND:
        return errors.FailedPrecondition(f"this SPDK target has no method {error.method}")
    make = _ERRNO.get(-error.code, errors.TargetFailure)
    return make(said)

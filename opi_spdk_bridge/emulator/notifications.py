"""The ring of notifications (lib/notify): what happened to bdevs, by increasing number."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .registry import ERRNO_FAILURE, MethodTable
from .schema import U64

TYPES = ("fsdev_register", "fsdev_unregister", "bdev_register", "bdev_unregister", "bdev_resize")
RING_SIZE = 1024

methods = MethodTable["Notifications"](ERRNO_FAILURE)


@dataclass
class Notifications:
    """The last RING_SIZE notifications; `sent` counts all of them."""

    sent: int = 0
    ring: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=RING_SIZE))

    def send(self, kind: str, subject: str) -> None:
        self.ring.append((kind, subject))
        self.sent += 1


@dataclass(frozen=True)
class GetNotifications:
    id: U64 = 0
    max: U64 = 2**64 - 1


@methods.plain("notify_get_types", "No parameters required")
def get_types(notifications: Notifications) -> list[str]:
    return list(TYPES)


@methods.rpc("notify_get_notifications", GetNotifications)
def get_notifications(notifications: Notifications, params: GetNotifications) -> list[dict[str, Any]]:
    oldest = notifications.sent - len(notifications.ring)
    first = max(params.id, oldest)
    last = min(notifications.sent, first + params.max)
    return [
        {"type": kind, "ctx": subject, "id": number}
        for number in range(first, last)
        for kind, subject in [notifications.ring[number - oldest]]
    ]

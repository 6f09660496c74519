"""What the connected target can do: the one place that knows how SPDK's releases differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opi_spdk_bridge import errors


@dataclass(frozen=True)
class Release:
    """A target's version text ("SPDK v26.09-pre") and the methods it knows."""

    version: str
    methods: frozenset[str] = field(repr=False)

    @property
    def number(self) -> tuple[int, int]:
        """(year, month) of the release; (0, 0) where the version text has none."""
        found = re.search(r"(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def keyring(self) -> bool:
        """Whether TLS keys are named objects (24.05 and later); before, `psk` was the path of a file."""
        return "keyring_file_add_key" in self.methods

    @property
    def queues_changes(self) -> bool:
        """Whether changes of one subsystem that come together wait for each other (24.05 and later).

        Before, all but the first are refused: "subsystem busy, retry later."
        """
        return self.number >= (24, 5)

    def iostat_of(self, bdevs: Sequence[str]) -> dict[str, Any]:
        """Parameters of bdev_get_iostat: a list of names came in 26.01, before it was one name."""
        return {"names": list(bdevs)} if self.iostat_takes_many else {"name": bdevs[0]}

    @property
    def iostat_takes_many(self) -> bool:
        """Whether one bdev_get_iostat can ask for several bdevs."""
        return self.number >= (26, 1)

    def require(self, method: str) -> None:
        """Raises FailedPrecondition where the target lacks the method."""
        if method not in self.methods:
            raise errors.FailedPrecondition(f"{self.version} has no method {method}")

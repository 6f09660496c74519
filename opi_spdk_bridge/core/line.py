"""How a resource looks in a line: for whoever lists resources for people."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class Said:
    """A part of a line that can be said at length, or in short where there is little room."""

    at_length: str
    in_short: str = ""

    def __str__(self) -> str:
        return self.at_length


def said_size(blocks_count: int, block_size: int) -> Said:
    """The size of a volume: in blocks and, in short, in powers of 1024 bytes."""
    size, power = float(blocks_count * block_size), 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return Said(f"{blocks_count} blocks of {block_size} bytes", f"{round(size, 1):g} {_UNITS[power]}")


@dataclass(frozen=True, slots=True)
class Line:
    """`parts` is what is to be said besides the name; `state` a word for how it is, "" where nothing tells."""

    parts: tuple[str | Said, ...] = ()
    state: str = ""
    good: bool = True
    """Whether that state is one to wish for."""

    def __str__(self) -> str:
        return "  ".join(map(str, (*self.parts, *([self.state] if self.state else []))))

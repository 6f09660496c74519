"""The cores of the emulated target, and the masks that name cores (lib/util/cpuset.c)."""

CORE_MASK = 0x2
"""The core that the recorded target ran on (spdk_tgt -m 0x2)."""


def parse_cpumask(text: str) -> int:
    """The mask in `text`: hexadecimal with or without 0x, or a list such as `[0,2-3]`. Raises ValueError."""
    if not text.startswith("["):
        return int(text.removeprefix("0x").removeprefix("0X"), 16)
    if not text.endswith("]"):
        raise ValueError(text)
    mask = 0
    for part in text[1:-1].split(","):
        first, separator, last = part.partition("-")
        for core in range(int(first), int(last if separator else first) + 1):
            mask |= 1 << core
    return mask

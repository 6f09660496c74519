"""What the target takes for an NQN (nvmf_nqn_is_valid, after the NVMe base specification, section 4.7)."""

import re

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
LENGTH_MIN = 11
LENGTH_MAX = 223

_UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_DOMAIN = re.compile(r"nqn\.[0-9]{4}-[0-9]{2}\.((?:[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.|(?=:)))*)")
_LABEL_LENGTH_MAX = 63


def is_valid_nqn(nqn: str) -> bool:
    """Whether `nqn` is the discovery NQN, a UUID NQN, or `nqn.yyyy-mm.reverse.domain:name`."""
    if not LENGTH_MIN <= len(nqn.encode()) <= LENGTH_MAX:
        return False
    if nqn == DISCOVERY_NQN:
        return True
    if nqn.startswith(_UUID_PREFIX):
        return _UUID.match(nqn, len(_UUID_PREFIX)) is not None
    match = _DOMAIN.match(nqn)
    if match is None or not nqn.startswith(":", match.end()) or len(nqn) <= match.end() + 1:
        return False
    return all(len(label) <= _LABEL_LENGTH_MAX for label in match[1].split("."))

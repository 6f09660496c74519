"""List paging (AIP-158): page sizes and tokens. A token says after which name to go on, so the server keeps nothing."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opi_spdk_bridge import errors


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `next_token` is "" on the last."""

    items: Sequence[Any]
    next_token: str


DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000


def page_size(asked: int) -> int:
    """The number of items in a page; raises InvalidArgument when negative."""
    if asked < 0:
        raise errors.InvalidArgument(f"page_size is {asked}; it may not be negative", field="page_size")
    return min(asked or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


def token(collection: str, after: str) -> str:
    """The token of the page that follows the item `after`, for lists of `collection` only."""
    text = f"{collection}\n{after}".encode()
    return base64.urlsafe_b64encode(zlib.crc32(text).to_bytes(4, "big") + text).decode().rstrip("=")


def after(page_token: str, collection: str) -> str:
    """The item that a token stands behind ("" for the first page); raises InvalidArgument for another list's token."""
    if not page_token:
        return ""
    try:
        raw = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True)
        text = raw[4:]
        listed, _, name = text.decode().partition("\n")
    except (binascii.Error, ValueError):
        raise _wrong_token() from None
    if raw[:4] != zlib.crc32(text).to_bytes(4, "big") or listed != collection:
        raise _wrong_token()
    return name


def _wrong_token() -> errors.InvalidArgument:
    text = "page_token is not one that this list gave; pass next_page_token as it was, with the same parent"
    return errors.InvalidArgument(text, field="page_token")

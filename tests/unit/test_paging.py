from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import paging
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.record import Phase, Record
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume

from .fakes import Bridge, DiskKind, DiskOwn, names

LIST = "/nullVolumes"
short_names = st.text("abcdefgh", min_size=1, max_size=3)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(asked: int, given_: int) -> None:
    assert paging.page_size(asked) == given_


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        paging.page_size(-1)
    assert refused.value.field == "page_size"


def test_no_token_is_the_first_page() -> None:
    assert paging.after("", LIST) == ""


@given(st.text(), st.text().filter(lambda text: "\n" not in text))
def test_a_token_says_what_it_was_made_of(name: str, collection: str) -> None:
    token = paging.token(collection, name)
    assert paging.after(token, collection) == name
    assert token.isascii()
    assert not set(token) & set("+/=&? ")


def test_another_lists_token_is_refused() -> None:
    token = paging.token("nvmeSubsystems/a/nvmeNamespaces", "nvmeSubsystems/a/nvmeNamespaces/x")
    with pytest.raises(errors.InvalidArgument) as refused:
        paging.after(token, "nvmeSubsystems/b/nvmeNamespaces")
    assert refused.value.field == "page_token"


@given(st.text(min_size=1))
def test_any_text_that_no_list_gave_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        paging.after(text, LIST)


@given(st.binary(min_size=1))
def test_any_bytes_that_no_list_gave_are_refused(raw: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        paging.after(base64.urlsafe_b64encode(raw).decode(), LIST)


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = paging.token(LIST, "nullVolumes/abc")
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCDwxyz0189-_"))
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(errors.InvalidArgument):
            paging.after(changed, LIST)


def _catalog(ids: set[str]) -> Catalog:
    catalog = Catalog({"nullVolume": DiskKind(Catalog({}))})
    for name in ids:
        catalog.put(_record(name))
    return catalog


def _record(name: str) -> Record[NullVolume, DiskOwn]:
    return Record("nullVolume", f"nullVolumes/{name}", NullVolume(), Phase.READY, 1, 0, 0, DiskOwn())


def _walk(catalog: Catalog, size: int, between: list[tuple[str, bool]]) -> list[str]:
    """Lists all pages; before each but the first one change is made: a name added (True) or removed."""
    seen: list[str] = []
    token, changes = "", iter(between)
    while True:
        records, more = catalog.page("nullVolume", "", paging.after(token, LIST), size)
        assert len(records) <= size
        seen += [record.id for record in records]
        if not more:
            return seen
        assert records
        token = paging.token(LIST, records[-1].name)
        name, add = next(changes, ("", False))
        if add:
            catalog.put(_record(name))
        elif catalog.record(f"nullVolumes/{name}"):
            catalog.remove(f"nullVolumes/{name}")


@given(st.sets(short_names), st.integers(1, 5))
def test_the_pages_of_a_quiet_list_hold_each_item_once_in_order(ids: set[str], size: int) -> None:
    assert _walk(_catalog(ids), size, []) == sorted(ids)


@given(st.sets(short_names), st.integers(1, 5), st.lists(st.tuples(short_names, st.booleans())))
def test_changes_between_pages_lose_or_repeat_nothing_that_stayed(
    ids: set[str], size: int, between: list[tuple[str, bool]]
) -> None:
    seen = _walk(_catalog(ids), size, between)
    touched = {name for name, _ in between}
    assert seen == sorted(set(seen)), "in order, none twice"
    assert ids - touched <= set(seen) <= ids | touched


async def test_a_token_is_good_after_a_restart_and_after_its_item_went() -> None:
    bridge = Bridge()
    for number in range(5):
        await bridge.create_disk(f"d{number}")
    first = await bridge.engine.list(bridge.disks, "", 2, "")
    await bridge.delete_disk("d1")
    bridge = await bridge.restarted()
    second = await bridge.engine.list(bridge.disks, "", 2, first.next_token)
    last = await bridge.engine.list(bridge.disks, "", 2, second.next_token)
    assert [names(page) for page in (first, second, last)] == [
        ["nullVolumes/d0", "nullVolumes/d1"], ["nullVolumes/d2", "nullVolumes/d3"], ["nullVolumes/d4"],
    ]  # fmt: skip
    assert last.next_token == ""


async def test_the_last_page_that_is_full_has_no_token() -> None:
    bridge = Bridge()
    for number in range(4):
        await bridge.create_disk(f"d{number}")
    first = await bridge.engine.list(bridge.disks, "", 2, "")
    assert first.next_token
    assert (await bridge.engine.list(bridge.disks, "", 2, first.next_token)).next_token == ""


async def test_children_of_another_parent_are_in_no_page() -> None:
    bridge = Bridge()
    for name in ("a", "a-b"):
        await bridge.create_subsystem(name)
        await bridge.create_disk(f"disk-{name}")
        await bridge.create_namespace(name, "n", f"disk-{name}")
    page = await bridge.engine.list(bridge.namespaces, "nvmeSubsystems/a", 0, "")
    assert names(page) == ["nvmeSubsystems/a/nvmeNamespaces/n"]

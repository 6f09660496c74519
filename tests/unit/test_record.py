"""What the bridge keeps of resources for itself, as JSON and back."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.record import Own, Phase, Record, filled, from_json, to_json
from opi_spdk_bridge.daemon.resources import kinds_only
from opi_spdk_bridge.kinds.aio_volume import Measured
from opi_spdk_bridge.kinds.encrypted_volume import Encrypted
from opi_spdk_bridge.kinds.nvme_controller import ControllerOwn
from opi_spdk_bridge.kinds.nvme_namespace import NamespaceOwn
from opi_spdk_bridge.kinds.nvme_subsystem import SubsystemOwn
from opi_spdk_bridge.kinds.shared.bdev import Identified
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.kinds.shared.qos import Limited, Owed
from opi_spdk_bridge.kinds.shared.vhost import OnDevice

KINDS = {singular: entry.kind for singular, entry in kinds_only().items()}
CLASSES = sorted({kind.own for kind in KINDS.values()}, key=lambda own: own.__name__)


def owns(own: type[Own]) -> st.SearchStrategy[Own]:
    """Any of that class: each field may be anything of its type."""
    hints = typing.get_type_hints(own)
    return st.builds(own, **{field.name: _of_type(hints[field.name]) for field in dataclass_fields(own)})


def _of_type(hint: Any) -> st.SearchStrategy[Any]:
    if hint == tuple[Owed, ...]:
        return st.lists(st.builds(Owed, st.text(), st.text())).map(tuple)
    if hint == Mapping[str, int] | None:
        return st.none() | st.dictionaries(st.text(), st.integers())
    return st.from_type(hint)


def through_json(own: Own) -> Own:
    shown, kept = json.loads(json.dumps(to_json(own)))
    return from_json(type(own), shown, kept)


@pytest.mark.parametrize("own", CLASSES, ids=lambda own: own.__name__)
@given(st.data())
def test_what_is_kept_comes_back_as_it_was(own: type[Own], data: st.DataObject) -> None:
    kept = data.draw(owns(own))
    assert through_json(kept) == kept


@pytest.mark.parametrize("own", CLASSES, ids=lambda own: own.__name__)
def test_an_older_state_may_lack_everything(own: type[Own]) -> None:
    assert from_json(own, {}, {}) == own()
    assert to_json(own()) == ({}, {})


@pytest.mark.parametrize("singular", KINDS)
@given(st.data())
def test_what_fills_a_field_is_shown_there_and_nothing_else_is(singular: str, data: st.DataObject) -> None:
    kind = KINDS[singular]
    own = data.draw(owns(kind.own))
    shown, kept = to_json(own)
    record = Record(singular, "a/b", kind.message(), Phase.READY, 1, 0, 0, own)
    assert record.assigned == shown
    assert set(shown) <= set(kind.assigned)
    assert not set(kept) & set(filled(kind.own).values())
    for path in kind.assigned:
        assert not fields.has(kind.message(), path), "a field of the message"


EARLIER: list[tuple[str, dict[str, Any], dict[str, Any], Own]] = [
    ("mallocVolume", {"uuid": "u"}, {}, Identified(uuid="u")),
    ("nullVolume", {}, {}, Identified()),
    (
        "aioVolume",
        {"uuid": "u"},
        {"block_size": 512, "blocks_count": 2**40},
        Measured(uuid="u", block_size=512, blocks_count=2**40),
    ),
    ("nvmeRemoteController", {}, {"psk_key": "opi-1"}, Keyed(psk_key="opi-1")),
    ("nvmePath", {}, {}, Own()),
    (
        "encryptedVolume",
        {},
        {"bdev": "b", "volume_uuid": "u", "crypto_key": "opi-1"},
        Encrypted(bdev="b", volume_uuid="u", crypto_key="opi-1"),
    ),
    (
        "qosVolume",
        {},
        {"bdev": "b", "qos": {"rw_ios_per_sec": 1000}, "owed": [{"bdev": "c", "uuid": ""}, {"bdev": "d", "uuid": "v"}]},
        Limited(bdev="b", qos={"rw_ios_per_sec": 1000}, owed=(Owed("c"), Owed("d", "v"))),
    ),
    (
        "nvmeSubsystem",
        {"spec.serial_number": "S"},
        {"psk_key": "opi-1", "psk_given": True},
        SubsystemOwn(serial_number="S", psk_key="opi-1", psk_given=True),
    ),
    (
        "nvmeController",
        {},
        {"trsvcid": "04420", "discovery": "theirs"},
        ControllerOwn(trsvcid="04420", discovery="theirs"),
    ),
    (
        "nvmeNamespace",
        {"spec.host_nsid": 1, "spec.nguid": "N", "spec.uuid": "w"},
        {"bdev": "b", "volume_uuid": "u"},
        NamespaceOwn(nsid=1, nguid="N", uuid="w", bdev="b", volume_uuid="u"),
    ),
    ("nvmeNamespace", {}, {"bdev": "b", "volume_uuid": "u"}, NamespaceOwn(bdev="b", volume_uuid="u")),
    ("virtioBlk", {}, {"bdev": "b", "volume_uuid": "u"}, Limited(bdev="b", volume_uuid="u")),
    ("virtioScsiTarget", {}, {}, Own()),
    ("virtioScsiController", {}, {}, Own()),
    (
        "virtioScsiLun",
        {},
        {"ctrlr": "t", "number": 0, "bdev": "b", "volume_uuid": "u"},
        OnDevice(bdev="b", volume_uuid="u", ctrlr="t", number=0),
    ),
]
"""What an earlier version kept: by path and by name, and what it is."""


@pytest.mark.parametrize(("singular", "shown", "kept", "own"), EARLIER, ids=[row[0] for row in EARLIER])
def test_what_an_earlier_version_kept_is_read(
    singular: str, shown: dict[str, Any], kept: dict[str, Any], own: Own
) -> None:
    assert from_json(KINDS[singular].own, shown, kept) == own


def test_every_kinds_earlier_form_is_held() -> None:
    assert {row[0] for row in EARLIER} == set(KINDS)


@pytest.mark.parametrize(
    ("own", "shown", "kept"),
    [
        (OnDevice, {}, {"number": "first"}),
        (Limited, {}, {"qos": [1]}),
        (Limited, {}, {"owed": [{"uuid": "u"}]}),
        (NamespaceOwn, {"spec.host_nsid": "x"}, {}),
    ],
)
def test_what_is_of_another_make_is_refused(own: type[Own], shown: dict[str, Any], kept: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        from_json(own, shown, kept)

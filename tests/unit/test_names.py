from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.names import NamePattern, resource_id
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeSubsystem

VOLUMES = NamePattern.of(NullVolume.DESCRIPTOR, "volumes")
SUBSYSTEMS = NamePattern.of(NvmeSubsystem.DESCRIPTOR)
NAMESPACES = NamePattern.of(NvmeNamespace.DESCRIPTOR)

ids = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)


def test_the_pattern_is_read_off_the_contract() -> None:
    assert NAMESPACES.collections == ("nvmeSubsystems", "nvmeNamespaces")
    assert (NAMESPACES.singular, NAMESPACES.plural) == ("nvmeNamespace", "nvmeNamespaces")
    assert NAMESPACES.example == "nvmeSubsystems/{id}/nvmeNamespaces/{id}"


@given(ids, ids)
def test_a_canonical_name_is_its_own_canonical_spelling(outer: str, inner: str) -> None:
    name = NAMESPACES.child(SUBSYSTEMS.child("", outer), inner)
    assert name == f"nvmeSubsystems/{outer}/nvmeNamespaces/{inner}"
    assert NAMESPACES.parse(name) == name


@given(ids)
def test_the_legacy_spelling_means_the_canonical_name(volume: str) -> None:
    assert VOLUMES.parse(f"volumes/{volume}") == f"nullVolumes/{volume}"
    assert VOLUMES.legacy(VOLUMES.parse(f"nullVolumes/{volume}")) == f"volumes/{volume}"


def test_a_kind_without_a_legacy_collection_keeps_its_name() -> None:
    assert SUBSYSTEMS.legacy("nvmeSubsystems/a") == "nvmeSubsystems/a"
    with pytest.raises(errors.InvalidArgument):
        SUBSYSTEMS.parse("volumes/a")


@pytest.mark.parametrize(
    "name",
    [
        "nullVolumes", "nullVolumes/", "/nullVolumes/a", "nullVolumes/a/", "nullVolumes/a/b", "nullvolumes/a",
        "mallocVolumes/a", "a", "volumes/", "volumes/a/b", "nullVolumes/-a", "nullVolumes/a-", "nullVolumes/a b",
        "nullVolumes/a\n", "nullVolumes/é", "nullVolumes/..", "nullVolumes/" + "a" * 64,
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_refused_with_the_form(name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"nullVolumes/\{id\}") as refused:
        VOLUMES.parse(name, "null_volume.name")
    assert refused.value.field == "null_volume.name"


def test_an_empty_name_is_called_missing() -> None:
    with pytest.raises(errors.InvalidArgument, match="name is missing"):
        VOLUMES.parse("")


def test_a_long_wrong_name_is_not_repeated_whole() -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        VOLUMES.parse("x" * 100_000)
    assert len(refused.value.message) < 400


def test_the_parent_is_parsed_by_the_outer_collections() -> None:
    assert NAMESPACES.parse_parent("nvmeSubsystems/a") == "nvmeSubsystems/a"
    for wrong in ("", "nvmeNamespaces/a", "nvmeSubsystems/a/nvmeNamespaces/b"):
        with pytest.raises(errors.InvalidArgument) as refused:
            NAMESPACES.parse_parent(wrong)
        assert refused.value.field == "parent"


@given(ids)
def test_a_given_id_is_taken_as_it_is(given_id: str) -> None:
    assert resource_id(given_id, "null_volume_id") == given_id


@given(st.text(min_size=1).filter(lambda text: not text.isascii() or len(text) > 63 or "/" in text or " " in text))
def test_an_id_that_could_not_stand_in_a_name_is_refused(given_id: str) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        resource_id(given_id, "null_volume_id")
    assert refused.value.field == "null_volume_id"


@pytest.mark.parametrize("given_id", ["-", "_a", ".a", "a.", "a-", "a\n", "a" * 64])
def test_an_id_begins_and_ends_with_a_letter_or_digit_within_63_characters(given_id: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        resource_id(given_id, "id")


def test_a_missing_id_is_a_fresh_lower_case_uuid() -> None:
    made = {resource_id("", "id") for _ in range(100)}
    assert len(made) == 100
    assert all(str(uuid.UUID(text)) == text for text in made)
    assert all(VOLUMES.parse(f"nullVolumes/{text}") for text in made)

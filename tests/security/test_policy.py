"""Policy files: who a caller is, and what their role lets them do with which names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.policy import (
    Everyone,
    Peer,
    Policy,
    Role,
    Subject,
    bearer,
    require_allowed,
    require_unrestricted,
    visible,
)  # fmt: skip
from tests.http.contract import METHODS, method

TOKEN = "correct horse battery staple"
TEXT = f"""
[[identity]]
name = "by-certificate"
subjects = ["ops.example.org", "ops"]
role = "operator"

[[identity]]
name = "by-token"
token_sha256 = ["{"0" * 64}", "{hashlib.sha256(TOKEN.encode()).hexdigest()}"]
role = "viewer"

[[identity]]
name = "by-listener"
listeners = ["local"]
role = "tenant"

[[role]]
name = "tenant"
names = ["mallocVolumes/a-*", "nvmeSubsystems/a-*", "nvmeRemoteControllers/a-*"]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, TEXT)


def loaded(folder: Path, text: str | bytes) -> Policy:
    path = folder / "policy.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Policy.load(path)


class TestIdentity:
    @pytest.mark.parametrize(
        ("peer", "name"),
        [
            (Peer(certificate=["ops"]), "by-certificate"),
            (Peer(certificate=["spiffe://else", "ops.example.org"]), "by-certificate"),
            (Peer(token=TOKEN), "by-token"),
            (Peer(listener="local"), "by-listener"),
            (Peer(certificate=["stranger"], listener="stranger", token=TOKEN), "by-token"),
        ],
    )
    def test_a_caller_is_known_by_any_of_them(self, policy: Policy, peer: Peer, name: str) -> None:
        assert policy.identify(peer).name == name

    @pytest.mark.parametrize(
        "peer",
        [
            Peer(),
            Peer(certificate=["ops.example.org.evil", "OPS", "", "*"]),
            Peer(token=TOKEN[:-1]),
            Peer(token=hashlib.sha256(TOKEN.encode()).hexdigest()),
            Peer(token="\u2603"),
            Peer(listener="Local"),
        ],
    )
    def test_everybody_else_is_unknown(self, policy: Policy, peer: Peer) -> None:
        with pytest.raises(errors.Unauthenticated):
            policy.identify(peer)

    def test_an_identity_without_marks_is_nobody(self, tmp_path: Path) -> None:
        nobody = loaded(tmp_path, '[[identity]]\nname = "x"\nrole = "admin"\n')
        with pytest.raises(errors.Unauthenticated):
            nobody.identify(Peer())

    def test_without_a_policy_everyone_is_admin(self) -> None:
        assert Everyone().identify(Peer()).role.name == "admin"

    @pytest.mark.parametrize(
        ("header", "token"),
        [("Bearer x.y", "x.y"), ("bearer  x", "x"), ("Basic x", ""), ("Bearer", ""), ("", ""), ("Bearerx", "")],
    )
    def test_tokens_are_bearer_tokens(self, header: str, token: str) -> None:
        assert bearer(header) == token


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "allowed", "denied"),
        [
            ("viewer", ("GetX", "ListX", "StatsX"), ("CreateX", "UpdateX", "DeleteX", "ResetX", "Else")),
            ("operator", ("GetX", "CreateX", "UpdateX", "DeleteX", "ResetX"), ("Else",)),
            ("admin", ("GetX", "CreateX", "Else"), ()),
        ],
    )
    def test_those_that_exist_already(
        self, tmp_path: Path, role: str, allowed: tuple[str, ...], denied: tuple[str, ...]
    ) -> None:
        known = loaded(tmp_path, f'[[identity]]\nname = "x"\nlisteners = ["x"]\nrole = "{role}"\n')
        given = known.identify(Peer(listener="x")).role
        assert [given.allows_method(name) for name in (*allowed, *denied)] == [True] * len(allowed) + [False] * len(
            denied
        )

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("mallocVolumes/a-1", True),
            ("nvmeSubsystems/a-1/nvmeNamespaces/anything", True),
            ("nvmeRemoteControllers/a-1/nvmeRemoteNamespaces/1", True),
            ("mallocVolumes/b-1", False),
            ("mallocVolumes/ba-1", False),
            ("nullVolumes/a-1", False),
            ("nvmeSubsystems/b/nvmeNamespaces/a-1", False),
            ("volumes/a-1", False),
            ("a-1", False),
            ("", False),
        ],
    )
    def test_names_match_whole_or_by_what_they_are_nested_in(self, name: str, allowed: bool) -> None:
        role = Role(name="x", names=("mallocVolumes/a-*", "nvmeSubsystems/a-*", "nvmeRemoteControllers/a-*"))
        assert role.allows_name(name) is allowed


TENANT = Subject("a", Role(name="tenant", names=("mallocVolumes/a-*", "nvmeSubsystems/a-*", "encryptedVolumes/a-*",
                                                "virtioScsiLuns/a-*", "nullVolumes/a-*")))  # fmt: skip
VOLUME = {"block_size": 512, "blocks_count": 8}


def asked(name: str, request: dict[str, Any]) -> Any:
    return json_format.ParseDict(request, method(name).request())


class TestTenants:
    @pytest.mark.parametrize(
        ("name", "request_"),
        [
            ("CreateMallocVolume", {"malloc_volume_id": "a-1", "malloc_volume": VOLUME}),
            ("GetMallocVolume", {"name": "mallocVolumes/a-1"}),
            ("DeleteMallocVolume", {"name": "mallocVolumes/a-1"}),
            ("UpdateMallocVolume", {"malloc_volume": {"name": "mallocVolumes/a-1"}, "update_mask": "name"}),
            ("CreateNvmeNamespace", {"parent": "nvmeSubsystems/a-1", "nvme_namespace_id": "n",
                                     "nvme_namespace": {"spec": {"volume_name_ref": "mallocVolumes/a-1"}}}),
            ("ListMallocVolumes", {}),
            ("ListNvmeNamespaces", {"parent": "nvmeSubsystems/b-1"}),
        ],
    )  # fmt: skip
    def test_their_own(self, name: str, request_: dict[str, Any]) -> None:
        require_allowed(TENANT, name, asked(name, request_))

    @pytest.mark.parametrize(
        ("name", "request_", "told"),
        [
            ("CreateMallocVolume", {"malloc_volume_id": "b-1", "malloc_volume": VOLUME}, "mallocVolumes/b-1"),
            ("CreateMallocVolume", {"malloc_volume": VOLUME}, "mallocVolumes/"),
            ("GetMallocVolume", {"name": "mallocVolumes/b-1"}, "mallocVolumes/b-1"),
            ("GetMallocVolume", {"name": "volumes/b-1"}, "volumes/b-1"),
            ("GetMallocVolume", {}, ""),
            ("StatsMallocVolume", {"name": "mallocVolumes/b-1"}, "mallocVolumes/b-1"),
            ("DeleteMallocVolume", {"name": "mallocVolumes/b-1", "allow_missing": True}, "mallocVolumes/b-1"),
            ("UpdateMallocVolume", {"malloc_volume": {"name": "mallocVolumes/b-1"}, "allow_missing": True}, "b-1"),
            ("CreateNvmeNamespace", {"parent": "nvmeSubsystems/b-1", "nvme_namespace_id": "a-1"}, "nvmeSubsystems/b-1"),
            ("CreateNvmeNamespace", {"parent": "nvmeSubsystems/a-1", "nvme_namespace_id": "n",
                                     "nvme_namespace": {"spec": {"volume_name_ref": "mallocVolumes/b-1"}}}, "b-1"),
            ("CreateNvmeNamespace", {"parent": "nvmeSubsystems/a-1", "nvme_namespace_id": "n",
                                     "nvme_namespace": {"spec": {"volume_name_ref": "b-1"}}}, "b-1"),
            ("UpdateNvmeNamespace", {"nvme_namespace": {"name": "nvmeSubsystems/a-1/nvmeNamespaces/n",
                                     "spec": {"volume_name_ref": "mallocVolumes/b-1"}}}, "mallocVolumes/b-1"),
            ("CreateEncryptedVolume", {"encrypted_volume_id": "a-1",
                                       "encrypted_volume": {"volume_name_ref": "mallocVolumes/b-1"}}, "b-1"),
            ("CreateVirtioScsiLun", {"virtio_scsi_lun_id": "a-1",
                                     "virtio_scsi_lun": {"target_name_ref": "virtioScsiTargets/b-1"}}, "b-1"),
            ("StatsVirtioScsiLun", {"name": "virtioScsiLuns/a-1",
                                    "controller_name_ref": "virtioScsiControllers/b-1"}, "virtioScsiControllers/b-1"),
        ],
    )  # fmt: skip
    def test_not_those_of_others(self, name: str, request_: dict[str, Any], told: str) -> None:
        with pytest.raises(errors.PermissionDenied) as denied:
            require_allowed(TENANT, name, asked(name, request_))
        assert denied.value.message.endswith(told)

    @pytest.mark.parametrize("name", sorted(item.name for item in METHODS if not item.name.startswith("List")))
    def test_no_method_can_be_called_on_anything_of_others(self, name: str) -> None:
        """Whatever a request names, in whichever field of the contract: one foreign name denies it."""
        message = method(name).request()
        assert _fill(message), "the request names nothing"
        with pytest.raises(errors.PermissionDenied):
            require_allowed(TENANT, name, message)

    def test_lists_show_only_what_is_theirs(self) -> None:
        answer: Any = method("ListMallocVolumes").response()
        for number in ("a-1", "b-1", "a-2"):
            answer.malloc_volumes.add(name=f"mallocVolumes/{number}")
        answer.next_page_token = "on"
        shown: Any = visible(TENANT, answer)
        assert [item.name for item in shown.malloc_volumes] == ["mallocVolumes/a-1", "mallocVolumes/a-2"]
        assert shown.next_page_token == "on"

    @pytest.mark.parametrize("item", [item for item in METHODS if item.name.startswith("List")], ids=lambda i: i.name)
    def test_every_list_of_the_contract_is_filtered(self, item: Any) -> None:
        answer = item.response()
        (repeated,) = [field for field in answer.DESCRIPTOR.fields if field.is_repeated]
        getattr(answer, repeated.name).add(name="things/of-others")
        assert not getattr(visible(TENANT, answer), repeated.name)

    def test_what_shows_everything_is_not_for_them(self) -> None:
        require_unrestricted(Subject("x", Role(name="viewer", methods=("Get*",))), "/metrics")
        with pytest.raises(errors.PermissionDenied, match="/metrics"):
            require_unrestricted(TENANT, "/metrics")


def _fill(message: Any) -> bool:
    """Puts a foreign name into every field that can hold one; whether there was any."""
    named = False
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and (field.name in ("name", "parent") or field.name.endswith("_name_ref")):
            setattr(message, field.name, "mallocVolumes/b-1")
            named = True
        elif field.message_type is not None and not field.is_repeated and "Mask" not in field.message_type.name:
            named = _fill(getattr(message, field.name)) or named
    return named


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[[identity]\n", "is not TOML"),
            (b"\xff\xfe\x00", "is not TOML"),
            ('[[identity]]\nname = "x"\n', "wrong at identity.0.role: Field required"),
            ('[[identity]]\nname = "x"\nrole = "rot"\n', "gives x the role 'rot', which it does not define"),
            ('[[identity]]\nname = "x"\nrole = "admin"\ntoken = "y"\n', "wrong at identity.0.token"),
            ('[[identity]]\nname = "x"\nrole = "admin"\ntoken_sha256 = ["y"]\n', "a token's hash is 64"),
            ('[[role]]\nname = "x"\nmethods = "Get*"\n', "wrong at role.0.methods"),
            ('[[roles]]\nname = "x"\n', "wrong at roles"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_place(self, tmp_path: Path, text: str | bytes, told: str) -> None:
        with pytest.raises(errors.FailedPrecondition) as problem:
            loaded(tmp_path, text)
        assert str(tmp_path) in problem.value.message
        assert told in problem.value.message

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(errors.FailedPrecondition, match=r"nowhere\.toml cannot be read: No such file"):
            Policy.load(tmp_path / "nowhere.toml")

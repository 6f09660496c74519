"""A served policy: over gRPC and HTTP, with client certificates, tokens and Unix sockets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format

from opi_spdk_bridge.cli.main import main
from tests.http.contract import method
from tests.http.web import problem_of
from tests.security.guarded import Guarded, over
from tests.security.served import call
from tests.support.certificates import Authority, Issued
from tests.support.patience import PATIENCE_S
from tests.support.program import program
from tests.support.target import Emulator, emulator, wait_until

TOKEN = "a-token-of-the-tests-0123456789abcdef"
VOLUME = {"block_size": 512, "blocks_count": 64}
POLICY = f"""
[[identity]]
name = "ops"
subjects = ["ops"]
role = "admin"

[[identity]]
name = "watcher"
token_sha256 = ["{hashlib.sha256(TOKEN.encode()).hexdigest()}"]
role = "viewer"

[[identity]]
name = "tenant"
listeners = ["tenant"]
role = "tenant"

[[role]]
name = "tenant"
names = ["mallocVolumes/a-*", "nvmeSubsystems/a-*"]
"""


@dataclass(frozen=True)
class House:
    """The bridge, who may enter it, and by which doors."""

    bridge: Guarded
    policy: Path
    authority: Authority
    ops: Issued
    stranger: Issued
    folder: Path

    @property
    def secure(self) -> str:
        """gRPC with TLS."""
        return next(each for each in self.bridge.addresses("gRPC") if not each.startswith("unix:"))

    @property
    def tenant(self) -> str:
        """gRPC of the tenant's socket."""
        return f"unix:{self.folder}/tenant.sock"

    @property
    def anyone(self) -> str:
        """gRPC of a socket that says nothing of its callers."""
        return f"unix:{self.folder}/anyone.sock"

    def credentials(self, who: Issued) -> grpc.ChannelCredentials:
        """Of a client with that certificate."""
        root = self.authority.certificate.read_bytes()
        return grpc.ssl_channel_credentials(root, who.key.read_bytes(), who.certificate.read_bytes())

    def web(self, who: Issued) -> httpx.Client:
        """HTTP with TLS."""
        url = f"https://{next(each for each in self.bridge.addresses('HTTP') if not each.startswith('unix:'))}"
        return httpx.Client(verify=self.authority.client(who), base_url=url, timeout=PATIENCE_S)

    def ask(self, name: str, request: dict[str, Any] | None = None, who: Issued | None = None) -> tuple[str, Any]:
        """A call by who has that certificate (default: ops)."""
        return _ask(self.secure, name, request, self.credentials(who or self.ops))


def _ask(
    address: str, name: str, request: dict[str, Any] | None = None, credentials: Any = None, token: str = ""
) -> tuple[str, Any]:
    message = json_format.ParseDict(request or {}, method(name).request())
    fields = {field.name: value for field, value in message.ListFields()}
    return asyncio.run(call(address, name, fields, credentials, token))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("guarded-target")) as started:
        yield started


@pytest.fixture(scope="module")
def house(target: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder, "authority")
    server, policy = authority.issue("bridge"), folder / "policy.toml"
    policy.write_text(POLICY)
    unix = f"unix:{folder}/"
    bridge = Guarded(
        folder,
        ["127.0.0.1:0", f"{unix}tenant.sock,identity=tenant", f"{unix}anyone.sock,mode=0600"],
        ["127.0.0.1:0", f"{unix}tenant-http.sock,identity=tenant", f"{unix}anyone-http.sock"],
        spdk=target.socket,
        policy=policy,
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.certificate,
    )
    bridge.start()
    made = House(bridge, policy, authority, authority.issue("ops"), authority.issue("stranger"), folder)
    for volume in ("a-1", "b-1"):
        request = {"malloc_volume_id": volume, "malloc_volume": VOLUME}
        assert made.ask("CreateMallocVolume", request)[0] == "OK"
    yield made
    bridge.kill()


class TestOverGrpc:
    def test_a_certificate_of_the_policy_may_do_what_its_role_may(self, house: House) -> None:
        assert house.ask("ListMallocVolumes")[0] == "OK"

    def test_a_certificate_of_the_authority_that_the_policy_does_not_know_may_nothing(self, house: House) -> None:
        assert house.ask("ListMallocVolumes", who=house.stranger)[0] == "UNAUTHENTICATED"

    def test_without_a_certificate_there_is_no_connection(self, house: House) -> None:
        nobody = grpc.ssl_channel_credentials(house.authority.certificate.read_bytes())
        assert _ask(house.secure, "ListMallocVolumes", None, nobody)[0] == "UNAVAILABLE"

    def test_a_token_counts_where_nothing_else_is_known(self, house: House) -> None:
        assert _ask(house.anyone, "ListMallocVolumes", token=TOKEN)[0] == "OK"
        denied = _ask(house.anyone, "DeleteMallocVolume", {"name": "mallocVolumes/a-1"}, token=TOKEN)
        assert denied == ("PERMISSION_DENIED", "watcher (role viewer) may not call DeleteMallocVolume")

    @pytest.mark.parametrize("token", ["", "wrong", TOKEN.upper()])
    def test_a_wrong_token_is_nobodys(self, house: House, token: str) -> None:
        assert _ask(house.anyone, "ListMallocVolumes", token=token)[0] == "UNAUTHENTICATED"

    def test_a_tenant_sees_and_changes_only_what_is_theirs(self, house: House) -> None:
        _, listed = _ask(house.tenant, "ListMallocVolumes")
        assert [item.name for item in listed.malloc_volumes] == ["mallocVolumes/a-1"]
        assert _ask(house.tenant, "GetMallocVolume", {"name": "mallocVolumes/b-1"})[0] == "PERMISSION_DENIED"
        made = {"malloc_volume_id": "a-2", "malloc_volume": VOLUME}
        assert _ask(house.tenant, "CreateMallocVolume", made)[0] == "OK"
        assert _ask(house.tenant, "DeleteMallocVolume", {"name": "mallocVolumes/a-2"})[0] == "OK"
        assert _ask(house.tenant, "DeleteMallocVolume", {"name": "mallocVolumes/b-1"})[0] == "PERMISSION_DENIED"

    @pytest.mark.parametrize("reference", ["mallocVolumes/b-1", "volumes/b-1", "b-1", "uuid"])
    def test_a_tenant_cannot_show_anothers_volume_to_hosts(self, house: House, reference: str) -> None:
        subsystem = {"nvme_subsystem_id": "a-s", "nvme_subsystem": {"spec": {"nqn": "nqn.2022-09.io.spdk:a-s"}}}
        assert _ask(house.tenant, "CreateNvmeSubsystem", subsystem)[0] == "OK"
        if reference == "uuid":
            reference = house.ask("GetMallocVolume", {"name": "mallocVolumes/b-1"})[1].uuid
        namespace = {"parent": "nvmeSubsystems/a-s", "nvme_namespace_id": "n"}
        request = {**namespace, "nvme_namespace": {"spec": {"volume_name_ref": reference}}}
        assert _ask(house.tenant, "CreateNvmeNamespace", request)[0] == "PERMISSION_DENIED"
        own = {**namespace, "nvme_namespace": {"spec": {"volume_name_ref": "mallocVolumes/a-1"}}}
        assert _ask(house.tenant, "CreateNvmeNamespace", own)[0] == "OK"
        assert _ask(house.tenant, "DeleteNvmeNamespace", {"name": "nvmeSubsystems/a-s/nvmeNamespaces/n"})[0] == "OK"
        assert _ask(house.tenant, "DeleteNvmeSubsystem", {"name": "nvmeSubsystems/a-s"})[0] == "OK"


class TestOverHttp:
    def test_a_certificate_of_the_policy_may_do_what_its_role_may(self, house: House) -> None:
        with house.web(house.ops) as client:
            assert len(client.get("/v1/mallocVolumes").json()["mallocVolumes"]) == 2

    def test_one_that_the_policy_does_not_know_may_nothing(self, house: House) -> None:
        with house.web(house.stranger) as client:
            assert problem_of(client.get("/v1/mallocVolumes")) == (401, 16, "")

    def test_a_token_counts(self, house: House) -> None:
        with over(house.folder / "anyone-http.sock") as client:
            client.headers["authorization"] = f"Bearer {TOKEN}"
            assert client.get("/v1/mallocVolumes").status_code == 200
            assert problem_of(client.delete("/v1/mallocVolumes/a-1")) == (403, 7, "")

    def test_a_tenant_sees_and_changes_only_what_is_theirs(self, house: House) -> None:
        with over(house.folder / "tenant-http.sock") as client:
            assert [item["name"] for item in client.get("/v1/mallocVolumes").json()["mallocVolumes"]] == [
                "mallocVolumes/a-1"
            ]
            assert problem_of(client.get("/v1/mallocVolumes/b-1")) == (403, 7, "")
            assert problem_of(client.delete("/v1/mallocVolumes/b-1")) == (403, 7, "")

    def test_metrics_are_for_who_may_see_everything(self, house: House) -> None:
        with over(house.folder / "anyone-http.sock") as client:
            assert problem_of(client.get("/metrics")) == (401, 16, "")
            client.headers["authorization"] = f"Bearer {TOKEN}"
            assert "mallocVolumes/b-1" in client.get("/metrics").text
        with over(house.folder / "tenant-http.sock") as client:
            refused = client.get("/metrics")
            assert problem_of(refused) == (403, 7, "")
            assert "b-1" not in refused.text

    def test_health_and_the_description_are_for_everyone(self, house: House) -> None:
        with over(house.folder / "anyone-http.sock") as client:
            assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/openapi.json")] == [200] * 3


class TestAudit:
    def test_every_change_is_a_line_with_who_what_and_how_it_ended(self, house: House) -> None:
        before = len(house.bridge.lines("change"))
        house.ask("CreateNullVolume", {"null_volume_id": "n", "null_volume": VOLUME})
        house.ask("ListNullVolumes")
        _ask(house.tenant, "DeleteNullVolume", {"name": "nullVolumes/n"})
        _ask(house.anyone, "UpdateNullVolume", {"null_volume": {"name": "nullVolumes/n"}}, token=TOKEN)
        house.ask("DeleteNullVolume", {"name": "nullVolumes/n"})
        house.ask("DeleteNullVolume", {"name": "nullVolumes/n"})
        told = [
            (line["who"], line["method"], line["resource"], line["code"])
            for line in house.bridge.lines("change")[before:]
        ]
        assert told == [
            ("ops", "CreateNullVolume", "n", "OK"),
            ("tenant", "DeleteNullVolume", "nullVolumes/n", "PERMISSION_DENIED"),
            ("watcher", "UpdateNullVolume", "nullVolumes/n", "PERMISSION_DENIED"),
            ("ops", "DeleteNullVolume", "nullVolumes/n", "OK"),
            ("ops", "DeleteNullVolume", "nullVolumes/n", "NOT_FOUND"),
        ]
        last = house.bridge.lines("change")[-1]
        assert last["timestamp"].endswith("+00:00")
        assert last["request_id"]
        assert last["request_id"] not in {line["request_id"] for line in house.bridge.lines("request")}, "one line each"

    def test_no_token_is_logged(self, house: House) -> None:
        _ask(house.anyone, "ListMallocVolumes", token=TOKEN)
        _ask(house.anyone, "ListMallocVolumes", token="wrong-" + TOKEN)
        assert TOKEN not in house.bridge.log
        assert hashlib.sha256(TOKEN.encode()).hexdigest() not in house.bridge.log


class TestReload:
    def test_a_changed_policy_counts_and_a_broken_one_does_not(self, house: House) -> None:
        def allowed() -> bool:
            return house.ask("ListMallocVolumes", who=house.stranger)[0] == "OK"

        assert not allowed()
        more = '\n[[identity]]\nname = "stranger"\nsubjects = ["stranger"]\nrole = "viewer"\n'
        house.policy.write_text(POLICY + more)
        house.bridge.hang_up()
        wait_until(allowed, "the changed policy is in force")
        house.policy.write_text('[[identity]]\nname = "x"\nrole = "nobody"\n')
        house.bridge.hang_up()
        wait_until(lambda: "SIGHUP: the policy stays as it is" in house.bridge.log, "the broken policy is told")
        assert "gives x the role 'nobody', which it does not define" in house.bridge.log
        assert allowed()
        assert house.ask("GetMallocVolume", {"name": "mallocVolumes/b-1"})[0] == "OK"
        house.policy.write_text(POLICY)
        house.bridge.hang_up()
        wait_until(lambda: not allowed(), "the first policy is in force again")


class TestCommandLine:
    def test_with_certificates(self, house: House) -> None:
        assert "mallocVolumes/b-1" in _run("call", "ListMallocVolumes", *_tls(house, house.ops)).output
        assert "mallocVolumes/b-1" in _run("state", *_tls(house, house.ops)).output
        assert "UNAUTHENTICATED: " in _run("call", "ListMallocVolumes", *_tls(house, house.stranger)).output

    def test_with_a_token_from_a_file(self, house: House, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        where = ("--address", house.anyone, "--token-file", str(tmp_path / "token"))
        assert "mallocVolumes/b-1" in _run("call", "ListMallocVolumes", *where).output
        assert "mallocVolumes/b-1" in _run("state", *where).output

    def test_with_a_token_from_the_environment(self, house: House) -> None:
        where = ("call", "ListMallocVolumes", "--address", house.anyone)
        assert "mallocVolumes/b-1" in _run(*where, env={"OPI_BRIDGE_TOKEN": TOKEN}).output
        assert "UNAUTHENTICATED: " in _run(*where).output

    def test_on_a_unix_socket(self, house: House) -> None:
        told = _run("call", "ListMallocVolumes", "--address", house.tenant).output
        assert "mallocVolumes/a-1" in told
        assert "mallocVolumes/b-1" not in told

    def test_a_token_does_not_leave_the_machine_in_clear(self) -> None:
        told = _run("call", "ListMallocVolumes", "--address", "192.0.2.1:1", env={"OPI_BRIDGE_TOKEN": TOKEN})
        assert told.exit_code == 1
        assert "the token would go to 192.0.2.1:1 in clear: give --tls-ca" in told.output

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--tls-cert", "/nowhere.crt"), "--tls-cert and --tls-key go together"),
            (("--tls-ca", "/nowhere.crt"), "/nowhere.crt cannot be read: No such file"),
            (("--token-file", "/nowhere"), "the token in /nowhere cannot be read"),
        ],
    )
    def test_wrong_options_are_named(self, options: tuple[str, str], told: str) -> None:
        answered = _run("call", "ListMallocVolumes", *options)
        assert answered.exit_code == 1
        assert told in answered.output

    @pytest.mark.parametrize("token", ["two\nlines", "\u00e4"])
    def test_a_token_that_cannot_be_sent_is_refused(self, tmp_path: Path, token: str) -> None:
        (tmp_path / "token").write_text(token)
        answered = _run("call", "ListMallocVolumes", "--token-file", str(tmp_path / "token"))
        assert "not one line of printable characters" in answered.output
        assert token not in answered.output

    def test_there_is_no_option_for_the_token_itself(self) -> None:
        assert "No such option" in _run("call", "ListMallocVolumes", "--token", "x").output

    def test_plain_text_to_a_server_with_tls_is_told(self, house: House) -> None:
        told = _run("call", "ListMallocVolumes", "--address", house.secure, "--timeout-s", "0.5").output
        assert "--tls-ca for a server with TLS" in told


def _tls(house: House, who: Issued) -> tuple[str, ...]:
    where = ("--address", house.secure, "--tls-ca", str(house.authority.certificate))
    return (*where, "--tls-cert", str(who.certificate), "--tls-key", str(who.key))


def _run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


class TestStart:
    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (("--listen", "0.0.0.0:0"), "0.0.0.0:0 can be reached from other machines and would not be encrypted"),
            (("--http", "0.0.0.0:0"), "--insecure if everybody who reaches it may read keys"),
            (("--policy", "/nowhere.toml"), "the policy /nowhere.toml cannot be read"),
            (("--tls-cert", "/no.crt", "--tls-key", "/no.key"), "the TLS file /no.crt, /no.key cannot be read"),
        ],
    )
    def test_what_is_not_safe_does_not_start(
        self, target: Emulator, flags: tuple[str, ...], told: str, tmp_path: Path
    ) -> None:
        given = ("--spdk", target.socket, "--state", "memory:", "--spdk-shared-dir", str(tmp_path / "shared"))
        ended = program("serve", "--listen", "127.0.0.1:0", "--http", "", *given, *flags)
        assert ended.returncode == 1
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_nor_what_has_a_policy_with_an_error(self, target: Emulator, tmp_path: Path) -> None:
        policy = tmp_path / "policy.toml"
        policy.write_text('[[identity]]\nname = "x"\nrole = "nobody"\n')
        flags = ("--spdk", target.socket, "--state", "memory:", "--policy", str(policy), "--http", "")
        ended = program("serve", "--listen", "127.0.0.1:0", *flags)
        assert ended.returncode == 1
        assert f"the policy {policy} gives x the role 'nobody', which it does not define" in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("spdk", ["192.0.2.1:5260", "127.0.0.1:9"])
    def test_a_target_on_another_machine_is_warned_of(self, tmp_path: Path, spdk: str) -> None:
        bridge = Guarded(tmp_path, ["127.0.0.1:0"], [], spdk=spdk)
        bridge.start()
        bridge.kill()
        told = f"the SPDK socket {spdk} is not on this machine: JSON-RPC is neither encrypted nor authenticated"
        assert [line["level"] for line in bridge.lines(told)] == ["warning"] * (not spdk.startswith("127."))

    def test_with_insecure_it_warns_and_serves(self, target: Emulator, tmp_path: Path) -> None:
        bridge = Guarded(tmp_path, ["0.0.0.0:0"], [], spdk=target.socket, insecure=True)
        bridge.start()
        try:
            for warning in (
                "not encrypted: whoever reaches 0.0.0.0:0 can read keys and change storage",
                "no policy: everyone that a listener lets in may do everything (--policy)",
            ):
                assert [line["level"] for line in bridge.lines(warning)] == ["warning"]
        finally:
            bridge.kill()

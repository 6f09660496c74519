"""The command line: serve, emulate, call, state."""

from __future__ import annotations

import fcntl
import json
import signal
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from opi_spdk_bridge.cli.main import main
from opi_spdk_bridge.daemon.settings import Settings
from tests.support.bridge import Bridge, bridge
from tests.support.embedded import embedded
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.ports import free_ports
from tests.support.program import program, started
from tests.support.target import Emulator, Target, emulator, wait_until

VOLUME = '{"null_volume_id": "disk0", "null_volume": {"block_size": 512, "blocks_count": 2048}}'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A bridge with its own emulated target."""
    with embedded(tmp_path_factory.mktemp("cli")) as started:
        yield started


def run(daemon: Bridge, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Result:
    """The command in this process, against the bridge."""
    return CliRunner().invoke(main, [*arguments, "--address", daemon.address], input=stdin, env=env)


class TestHelp:
    def test_the_program_says_how_to_start(self) -> None:
        text = CliRunner().invoke(main, ["--help"]).output
        assert all(command in text for command in ("serve", "emulate", "call", "state"))
        assert "opi-spdk-bridge call CreateNullVolume" in text

    def test_serve_names_each_option_with_its_variable_and_default(self) -> None:
        text = " ".join(CliRunner().invoke(main, ["serve", "-h"]).output.split())
        for name, field in Settings.model_fields.items():
            assert f"--{name.replace('_', '-')} " in text
            assert f"{field.description} [OPI_BRIDGE_{name.upper()}]" in text
            if isinstance(field.default, int | float) and field.default is not False:
                assert f"[OPI_BRIDGE_{name.upper()}] [default: ({field.default})]" in text
        assert "127.0.0.1:50051" in text
        assert "[canonical|legacy]" in text

    @pytest.mark.parametrize(
        ("command", "teaches"),
        [("call", "opi-spdk-bridge call ListNvmeSubsystems"), ("state", "--address"), ("emulate", "--vhost-dir")],
    )
    def test_each_command_teaches_its_use(self, command: str, teaches: str) -> None:
        answered = CliRunner().invoke(main, [command, "--help"])
        assert answered.exit_code == 0
        assert teaches in answered.output


class TestCall:
    @pytest.mark.parametrize("method", ["List", "NullVolumeService/List", "opi_api.storage.v1.NullVolumeService.List"])
    def test_a_method_goes_by_its_short_or_full_name(self, daemon: Bridge, method: str) -> None:
        answered = run(daemon, "call", f"{method}NullVolumes")
        assert answered.exit_code == 0
        assert json.loads(answered.output) == {}

    def test_the_address_may_come_from_the_environment(self, daemon: Bridge) -> None:
        env = {"OPI_BRIDGE_ADDRESS": daemon.address}
        assert CliRunner().invoke(main, ["call", "ListNullVolumes"], env=env).exit_code == 0

    def test_answers_are_json_with_the_names_of_the_contract(self, daemon: Bridge) -> None:
        created = json.loads(run(daemon, "call", "CreateNullVolume", VOLUME).output)
        assert created["name"] == "nullVolumes/disk0"
        assert (created["block_size"], created["blocks_count"]) == ("512", "2048")
        assert json.loads(run(daemon, "call", "DeleteNullVolume", '{"name": "nullVolumes/disk0"}').output) == {}

    def test_a_request_may_come_from_a_file_or_standard_input(self, daemon: Bridge, tmp_path: Path) -> None:
        (tmp_path / "request.json").write_text(VOLUME)
        from_file = run(daemon, "call", "CreateNullVolume", f"@{tmp_path}/request.json")
        from_stdin = run(daemon, "call", "CreateNullVolume", "@-", stdin=VOLUME)
        assert json.loads(from_file.output) == json.loads(from_stdin.output)
        run(daemon, "call", "DeleteNullVolume", '{"name": "nullVolumes/disk0"}')

    def test_a_file_that_is_not_there_is_named(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "CreateNullVolume", "@/nonexistent.json")
        assert answered.exit_code != 0
        assert "/nonexistent.json" in answered.output

    def test_what_is_no_json_is_told_with_the_fields(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "CreateNullVolume", "{nonsense")
        assert answered.exit_code == 1
        assert "the request is no CreateNullVolumeRequest" in answered.output
        assert "Its fields are: null_volume, null_volume_id" in answered.output

    def test_an_unknown_field_is_named(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "CreateNullVolume", '{"volume": {}}')
        assert '"volume"' in answered.output
        assert "Its fields are: null_volume, null_volume_id" in answered.output

    def test_an_unknown_method_is_answered_with_those_like_it(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "ListNvmeSubsystem")
        assert answered.exit_code == 1
        assert "the server has no method ListNvmeSubsystem. It has: ListNvmeSubsystems" in answered.output

    def test_a_method_like_no_other_is_answered_with_all(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "zzz")
        assert "CreateAioVolume" in answered.output
        assert "UpdateVirtioScsiTarget" in answered.output

    def test_an_error_has_its_code_its_text_and_its_field(self, daemon: Bridge) -> None:
        answered = run(daemon, "call", "CreateNvmeSubsystem", '{"nvme_subsystem": {"spec": {"nqn": "nonsense"}}}')
        assert answered.exit_code == 1
        assert "INVALID_ARGUMENT: " in answered.output
        assert "(field nvme_subsystem.spec.nqn)" in answered.output

    def test_a_server_that_is_away_is_told_with_its_address(self) -> None:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        answered = CliRunner().invoke(main, ["call", "ListNullVolumes", "--timeout-s", "0.3", "--address", address])
        assert answered.exit_code == 1
        assert f"nothing answers gRPC at {address}: is `opi-spdk-bridge serve` running?" in answered.output

    def test_a_socket_that_cannot_be_is_told(self) -> None:
        answered = CliRunner().invoke(main, ["call", "ListNullVolumes", "--address", f"unix:/{'x' * 107}"])
        assert answered.exit_code == 1
        assert "has 108 bytes, and 107 are the most" in answered.output


class TestState:
    def test_a_bridge_that_manages_nothing_says_so(self, daemon: Bridge) -> None:
        assert run(daemon, "state").output == "(nothing yet)\n"

    def test_subsystems_have_their_controllers_and_namespaces_below(self, daemon: Bridge) -> None:
        port = free_ports(1)[0]
        fabrics = {"traddr": "127.0.0.1", "trsvcid": str(port), "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
        volume = {"block_size": 512, "blocks_count": 2048}
        daemon.call("CreateNullVolume", {"null_volume_id": "disk0", "null_volume": volume})
        daemon.call("CreateMallocVolume", {"malloc_volume_id": "spare", "malloc_volume": volume})
        subsystem = {"spec": {"nqn": "nqn.2022-09.io.spdk:tree"}}
        daemon.call("CreateNvmeSubsystem", {"nvme_subsystem_id": "s0", "nvme_subsystem": subsystem})
        parent = "nvmeSubsystems/s0"
        controller = {"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics}}
        daemon.call(
            "CreateNvmeController", {"parent": parent, "nvme_controller_id": "c0", "nvme_controller": controller}
        )
        namespace = {"spec": {"volume_name_ref": "nullVolumes/disk0"}}
        daemon.call("CreateNvmeNamespace", {"parent": parent, "nvme_namespace_id": "n0", "nvme_namespace": namespace})
        shown = run(daemon, "state").output
        for kind, name in (
            ("NvmeNamespace", f"{parent}/nvmeNamespaces/n0"),
            ("NvmeController", f"{parent}/nvmeControllers/c0"),
            ("NvmeSubsystem", parent),
            ("NullVolume", "nullVolumes/disk0"),
            ("MallocVolume", "mallocVolumes/spare"),
        ):
            daemon.call(f"Delete{kind}", {"name": name})
        assert shown.splitlines() == [
            "nvmeSubsystems/s0  nqn.2022-09.io.spdk:tree  any host",
            f"├── nvmeSubsystems/s0/nvmeControllers/c0  TCP 127.0.0.1 port {port}  active",
            "└── nvmeSubsystems/s0/nvmeNamespaces/n0  NSID 1  online",
            "    └── nullVolumes/disk0  2048 blocks of 512 bytes",
            "mallocVolumes/spare  2048 blocks of 512 bytes",
        ]

    def test_every_kind_of_resource_is_shown(self, daemon: Bridge) -> None:
        volume = {"block_size": 512, "blocks_count": 2048}
        for name in ("encrypted-base", "limited", "blk-disk"):
            daemon.call("CreateMallocVolume", {"malloc_volume_id": name, "malloc_volume": volume})
        key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWU="
        encrypted = {"volume_name_ref": "encrypted-base", "key": key, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
        limits = {"volume_name_ref": "limited", "limits": {"max": {"rw_bandwidth_mbs": 2}}}
        function = {"port_id": 0, "physical_function": 7, "virtual_function": 0}
        made = [
            ("EncryptedVolume", "encrypted_volume", "encryptedVolumes", encrypted),
            ("QosVolume", "qos_volume", "qosVolumes", limits),
            ("VirtioBlk", "virtio_blk", "virtioBlks", {"volume_name_ref": "blk-disk", "pcie_id": function}),
            ("VirtioScsiTarget", "virtio_scsi_target", "virtioScsiTargets", {"max_luns": 2}),
            ("NvmeRemoteController", "nvme_remote_controller", "nvmeRemoteControllers",
             {"multipath": "NVME_MULTIPATH_MULTIPATH"}),
        ]  # fmt: skip
        for kind, field, collection, resource in made:
            daemon.call(f"Create{kind}", {f"{field}_id": collection.lower(), field: resource})
        shown = run(daemon, "state").output
        for kind, _, collection, _ in made:
            daemon.call(f"Delete{kind}", {"name": f"{collection}/{collection.lower()}"})
        for name in ("encrypted-base", "limited", "blk-disk"):
            daemon.call("DeleteMallocVolume", {"name": f"mallocVolumes/{name}"})
        missing = [name for _, _, name, _ in made if f"{name}/{name.lower()}" not in shown]
        assert missing == []


class TestServeErrors:
    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--nonsense"], "--nonsense"),
            (["--connect-grace-s", "-1"], "--connect-grace-s: Input should be greater than 0"),
            (["--max-requests", "many"], "--max-requests: Input should be a valid integer"),
            (["--resource-names", "odd"], "'odd' is not one of 'canonical', 'legacy'"),
            (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        ],
    )
    def test_a_wrong_flag_is_named(self, flags: list[str], told: str) -> None:
        ended = program("serve", "--listen", "127.0.0.1:0", *flags)
        assert ended.returncode == 2
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("address", ["127.0.0.1:99999", "nonsense", "unix:", "unix:/run/x,mode=rw"])
    def test_an_address_of_no_known_form_is_told_with_the_forms(self, address: str) -> None:
        ended = program("serve", "--listen", address)
        assert ended.returncode == 2
        assert ended.stderr.strip().splitlines()[-1].startswith(f"Error: --listen: '{address}'")
        assert "mode" in ended.stderr

    @pytest.mark.parametrize(
        ("state", "shown"), [("nonsense", "nonsense"), ("redes://me:open-sesame@h/0", "redes://[secret]@h/0")]
    )
    def test_a_state_of_no_known_form_is_told_with_the_forms(self, state: str, shown: str) -> None:
        ended = program("serve", "--state", state)
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"Error: --state '{shown}' is ")
        assert "sqlite:PATH" in ended.stderr
        assert "memory:" in ended.stderr

    def test_a_wrong_entry_of_the_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "bridge.toml").write_text("nonsense = 1\n")
        ended = program("serve", "--config", f"{tmp_path}/bridge.toml")
        assert ended.returncode == 2
        assert "nonsense" in ended.stderr

    def test_a_port_that_is_taken_is_told(self, daemon: Bridge) -> None:
        ended = program("serve", "--listen", daemon.address)
        assert ended.returncode == 2
        assert f"Error: cannot listen on {daemon.address}: another program has that port" in ended.stderr

    @pytest.mark.parametrize("flag", ["--listen", "--http", "--spdk", "--qmp"])
    @pytest.mark.parametrize("length", [108, 200, 5000])
    def test_a_socket_whose_path_is_too_long_is_told(self, tmp_path: Path, flag: str, length: int) -> None:
        path = f"{tmp_path}/{'x' * (length - len(f'{tmp_path}/'))}"
        quiet = ("--listen", "127.0.0.1:0", "--http", "") if flag not in ("--listen", "--http") else ()
        ended = program("serve", *quiet, flag, path if flag in ("--spdk", "--qmp") else f"unix:{path}")
        assert ended.returncode == 2
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith(f"Error: {flag}: ")
        assert f"the socket path {path} has {length} bytes, and 107 are the most" in last
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("flag", ["--listen", "--http"])
    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("unix:/nonexistent/s", "there is no folder /nonexistent"),
            ("unix:/dev/null/s", "/dev/null is no folder"),
            ("unix:/dev/null", "it is there, and no socket"),
            ("192.0.2.1:0", "the address is not one of this machine's"),
            ("nowhere.invalid:1", "there is no such host"),
        ],
    )
    def test_what_cannot_be_listened_on_is_told_with_the_cause(
        self, target: Emulator, flag: str, address: str, told: str, tmp_path: Path
    ) -> None:
        flags = {"--listen": "127.0.0.1:0", "--http": "", flag: address}
        given = ("--spdk", target.socket, "--state", "memory:", "--insecure", "--spdk-shared-dir", f"{tmp_path}/shared")
        ended = program("serve", *given, *(part for pair in flags.items() for part in pair))
        assert ended.returncode == 2
        assert f"Error: cannot listen on {address}: {told}" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_folder_for_temporary_files_that_is_too_deep_for_the_emulated_target_is_told(
        self, tmp_path: Path
    ) -> None:
        deep = tmp_path / ("x" * 80)
        deep.mkdir()
        ended = program("serve", "--listen", "127.0.0.1:0", "--http", "", env={"TMPDIR": str(deep)})
        assert ended.returncode == 1
        assert f"the emulated target cannot start: the socket path {deep}/" in ended.stderr
        assert "Give a shorter TMPDIR" in ended.stderr

    def test_a_shared_folder_open_to_others_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o755)
        ended = program("serve", "--spdk-shared-dir", str(shared), "--listen", "127.0.0.1:0")
        assert ended.returncode == 1
        assert f"run `chmod 0700 {shared}`" in ended.stderr


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator for bridges with a state file."""
    with emulator(tmp_path_factory.mktemp("cli-target")) as started:
        yield started


class TestStateFile:
    def test_it_belongs_to_one_bridge_at_a_time(self, target: Emulator, tmp_path: Path) -> None:
        state = f"sqlite:{tmp_path}/state.sqlite"
        with bridge(tmp_path, spdk=target.socket, state=state):
            ended = program("serve", "--spdk", target.socket, "--state", state, "--listen", "127.0.0.1:0")
        assert ended.returncode == 1
        assert f"another bridge has the state file {tmp_path}/state.sqlite open" in ended.stderr

    def test_it_belongs_to_one_target_unless_another_is_to_adopt_it(self, target: Emulator, tmp_path: Path) -> None:
        flags = {"state": f"sqlite:{tmp_path}/state.sqlite"}
        with bridge(tmp_path, spdk=target.socket, **flags) as first:
            first.call(
                "CreateNullVolume", {"null_volume_id": "d0", "null_volume": {"block_size": 512, "blocks_count": 8}}
            )
            assert first.stop() == 0
        other = f"{tmp_path}/other.sock"
        ended = program("serve", "--spdk", other, "--state", flags["state"], "--listen", "127.0.0.1:0")
        assert ended.returncode == 1
        assert f"is for the target at {target.socket}, not {other}" in ended.stderr
        assert "--adopt-target" in ended.stderr
        with bridge(tmp_path, spdk=other, adopt_target=True, **flags) as second:
            assert second.call("ListNullVolumes")["null_volumes"][0]["name"] == "nullVolumes/d0"
        target.clean()

    def test_it_and_its_key_are_for_their_owner_only(self, target: Emulator, tmp_path: Path) -> None:
        with bridge(tmp_path, spdk=target.socket, state=f"sqlite:{tmp_path}/deep/state.sqlite"):
            folder = tmp_path / "deep"
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}
        assert modes["state.sqlite"] == modes["state.sqlite.key"] == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class TestServe:
    def test_flags_come_before_the_environment_and_that_before_the_file(
        self, target: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "bridge.toml"
        file.write_text(f'spdk = "{target.socket}"\nresource_names = "canonical"\nstate = "sqlite:/nonexistent/x"\n')
        monkeypatch.setenv("OPI_BRIDGE_RESOURCE_NAMES", "legacy")
        monkeypatch.setenv("OPI_BRIDGE_STATE", f"sqlite:{tmp_path}/of-the-environment")
        monkeypatch.setenv("OPI_BRIDGE_CONFIG", str(file))
        with bridge(tmp_path, state=f"sqlite:{tmp_path}/of-the-flag") as started:
            volume = {"block_size": 512, "blocks_count": 8}
            created = started.call("CreateNullVolume", {"null_volume_id": "d1", "null_volume": volume})
            started.call("DeleteNullVolume", {"name": created["name"]})
        assert created["name"] == "volumes/d1"
        assert f"SPDK at {target.socket}" in started.log
        assert f"sqlite:{tmp_path}/of-the-flag" in started.log
        assert not (tmp_path / "of-the-environment").exists()

    def test_it_says_what_it_serves_and_what_to_try_next(self, daemon: Bridge) -> None:
        assert f"serves gRPC on {daemon.address}\n" in daemon.log
        assert "no real storage" in daemon.log
        assert "FrontendNvmeService" in daemon.log
        assert "call CreateNullVolume" in daemon.log

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_at_once_with_status_0_and_takes_its_emulator_along(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        with embedded(tmp_path, drain_s=HOUR_S) as started:
            children = psutil.Process(_pid(started)).children()
            assert len(children) == 1
            assert started.stop(number) == 0
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert "Traceback" not in started.log


def _pid(daemon: Bridge) -> int:
    """The process that listens at the bridge's address."""
    port = int(daemon.address.rpartition(":")[2])
    found = [c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr and c.laddr[1] == port]
    assert len(found) == 1
    assert found[0] is not None
    return found[0]


class TestEmulate:
    def test_a_configuration_is_loaded(self, tmp_path: Path) -> None:
        create = {"method": "bdev_malloc_create", "params": {"name": "M0", "num_blocks": 32, "block_size": 512}}
        config = {"subsystems": [{"subsystem": "bdev", "config": [create]}]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        socket = tmp_path / "c.sock"
        flags = ["--socket", str(socket), "-c", str(tmp_path / "config.json")]
        process = started("emulate", *flags, log=tmp_path / "target.log")
        try:
            target = Target(str(socket))
            wait_until(target.answers, "the emulator listens")  # its socket is there a moment before
            wait_until(lambda: target.bdev("M0") is not None, "the configuration is loaded")
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

    @pytest.mark.parametrize(
        ("flags", "status", "told"),
        [
            ([], 2, "Missing option '--socket'"),
            (["--socket", "e.sock", "-c", "missing.json"], 2, "'missing.json' does not exist"),
            (["--socket", "e.sock", "-c", "bad.json"], 1, "Expecting"),
            (["--socket", "e.sock", "-c", "unknown.json"], 1, "bdev_nonsense"),
            (["--socket", "/nonexistent/e.sock"], 2, "cannot listen on /nonexistent/e.sock: No such file or directory"),
            (["--socket", "x" * 108], 2, "has 108 bytes, and 107 are the most of a Unix socket's"),
            (["--socket", "taken.sock"], 2, "cannot listen on taken.sock: another target has it"),
            (["--socket", "192.0.2.1:0"], 2, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
            (["--socket", "nowhere.invalid:1"], 2, "cannot listen on nowhere.invalid:1: "),
            (["--socket", "127.0.0.1:70000"], 2, "cannot listen on 127.0.0.1:70000: "),
            (["--socket", "e.sock", "--poll-interval-ms", "-1"], 2, "--poll-interval-ms"),
        ],
    )
    def test_what_it_cannot_do_is_told(self, tmp_path: Path, flags: list[str], status: int, told: str) -> None:
        (tmp_path / "bad.json").write_text("{")
        unknown = {"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_nonsense", "params": {}}]}]}
        (tmp_path / "unknown.json").write_text(json.dumps(unknown))
        taken = (tmp_path / "taken.sock.lock").open("w")
        fcntl.flock(taken, fcntl.LOCK_EX)
        with taken:
            ended = program("emulate", *flags, cwd=tmp_path)
        assert ended.returncode == status
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr

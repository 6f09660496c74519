"""The systemd unit: its keys, how far it shuts the daemon in, and that it starts what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from opi_spdk_bridge.store import open as store
from tests.deploy.files import ROOT, SYSTEMD, require_accepted, settings_of, tool

UNIT = SYSTEMD / "opi-spdk-bridge.service"
GUIDE = ROOT / "docs" / "deploy.md"


def keys(path: Path = UNIT) -> dict[str, dict[str, list[str]]]:
    """The values of each key, by section; a key may come more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            section.setdefault(key, []).append(value)
    return sections


SERVICE = keys()["Service"]


def test_it_tells_systemd_that_it_is_ready_and_alive() -> None:
    assert SERVICE["Type"] == ["notify"]
    assert int(SERVICE["WatchdogSec"][0]) >= 10
    assert SERVICE["Restart"] == ["on-failure"]
    assert SERVICE["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_it_does_not_go_down_with_its_target() -> None:
    unit = keys()["Unit"]
    assert not unit.keys() & {"Requires", "BindsTo", "PartOf", "Requisite"}
    assert "spdk.service" in unit["After"][0]


def test_the_command_line_is_one_that_the_program_takes() -> None:
    program, *arguments = shlex.split(SERVICE["ExecStart"][0])
    assert Path(program).name == "opi-spdk-bridge"
    require_accepted(arguments)


def test_the_settings_are_those_of_the_bridge() -> None:
    settings = settings_of(SYSTEMD / "bridge.toml")
    writable = SERVICE["ReadWritePaths"][0].removeprefix("-")
    assert str(settings.spdk).startswith(f"{writable}/")
    assert str(settings.spdk_shared_dir).startswith(f"{writable}/")
    assert settings.state is None  # in $STATE_DIRECTORY, which the unit brings


def test_state_runtime_and_configuration_folders_and_the_key_are_the_units_own() -> None:
    for folder in ("StateDirectory", "RuntimeDirectory", "ConfigurationDirectory"):
        assert SERVICE[folder] == ["opi-spdk-bridge"]
    name = SERVICE["LoadCredential"][0].partition(":")[0]
    assert f'"{name}"' in Path(store.__file__).read_text()


def test_a_drop_in_for_a_target_of_roots_changes_the_user_alone() -> None:
    assert keys(SYSTEMD / "root-target.conf") == {"Service": {"User": ["root"], "Group": ["root"]}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CapabilityBoundingSet", ""),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateTmp", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
    ],
)
def test_it_is_shut_in(key: str, value: str) -> None:
    assert SERVICE[key] == [value]


def test_systemd_grades_it_as_the_guide_says() -> None:
    analyze = tool("systemd-analyze", "the unit is not graded")
    command = [analyze, "security", "--offline=true", "--threshold=15", str(UNIT)]
    graded = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for opi-spdk-bridge.service: ([\d.]+)", graded.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze grades no files: {graded.stderr.strip()}")
    assert graded.returncode == 0
    assert float(found[1]) <= 1.5
    assert "exposure level 1.1" in GUIDE.read_text()


def test_systemd_knows_every_key() -> None:
    analyze = tool("systemd-analyze", "the unit is not verified")
    verified = subprocess.run([analyze, "verify", str(UNIT)], capture_output=True, text=True)
    assert not re.search(r"Unknown|Failed to parse|Invalid", verified.stderr), verified.stderr

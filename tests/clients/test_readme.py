"""The README's walks, word for word but for the ports, which have to be free here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.program import keep
from tests.support.target import Target

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
WITH_GRPCURL = "".join(block for block in BLOCKS if block.startswith("grpcurl"))
WITH_CALL = "".join(block for block in BLOCKS if "opi-spdk-bridge call" in block)
GRPCURL = os.environ.get("GRPCURL") or shutil.which("grpcurl")


def _walk(script: str, opi: Bridge, tools: Path) -> str:
    script = script.replace("127.0.0.1:50051", opi.address).replace('"4420"', f'"{free_ports(1)[0]}"')
    environment = {
        **os.environ,
        "OPI_BRIDGE_ADDRESS": opi.address,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    walked = subprocess.run(
        ["bash", "-euxc", script], capture_output=True, text=True, env=environment, timeout=5 * PATIENCE_S, check=False
    )
    keep(walked.stdout, walked.stderr)
    assert walked.returncode == 0, walked.stderr
    return walked.stdout


@pytest.mark.skipif(GRPCURL is None, reason="grpcurl is not on the path and GRPCURL does not name it: not run")
def test_the_walk_with_grpcurl(opi: Bridge, target: Target, tmp_path: Path) -> None:
    assert GRPCURL is not None
    (tmp_path / "grpcurl").symlink_to(GRPCURL)
    told = _walk(WITH_GRPCURL, opi, tmp_path)
    assert "OPER_STATE_ONLINE" in told
    assert not any(target.inventory().values())


def test_the_walk_with_call(opi: Bridge, target: Target, tmp_path: Path) -> None:
    told = _walk(WITH_CALL, opi, tmp_path)
    assert "nvmeSubsystems/subsys0/nvmeNamespaces/ns0  NSID 1  online" in told
    assert "OPER_STATE_ONLINE" in told
    assert not any(target.inventory().values())


def test_both_walks_are_the_same() -> None:
    methods = [re.findall(r"(?:Service/|call )([A-Z]\w+)", script) for script in (WITH_GRPCURL, WITH_CALL)]
    assert methods[0] == methods[1] != []

"""Every recorded answer of a real target, word for word.

A transcript is JSON lines: a call with its answer, bytes with theirs, a file to prepare, or a pause. It was recorded on
a pair of targets, of which the far one plays the remote array.
"""

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.conftest import StartTarget
from tests.emulator.emulated import CallFailedError, Client, EmulatedTarget, free_port, wait_for

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "data" / "transcripts").glob("*.jsonl"))
STEPS = 614

# What differs from run to run: only its type is compared.
TYPE_ONLY = frozenset({"tick_rate", "ticks", "hostid"})
IDENTITIES = frozenset({"uuid", "nguid", "aliases"})


def test_all_recorded_steps_are_here() -> None:
    steps = [json.loads(line) for path in TRANSCRIPTS for line in path.read_text().splitlines()]
    assert sum("method" in step or "raw" in step for step in steps) == STEPS


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_answers_as_recorded(path: Path, folder: Path, start_target: StartTarget) -> None:
    text = path.read_text()
    near = start_target("near")
    far = start_target("far") if '"on": "far"' in text else near
    for target in {near.address: near, far.address: far}.values():
        target.client.call("nvmf_create_transport", trtype="TCP")
    names = {"${TMP}": str(folder), "${VHOST}": str(near.vhost_dir), **_ports(text)}
    steps = [json.loads(_replace(line, names)) for line in text.splitlines()]
    comparison = Comparison(steps)
    for step, before in zip(steps, [{}, *steps], strict=False):
        on = far if step.get("on") == "far" else near
        if "reconnect_delay_sec" in text:
            wait_for(lambda: "resetting" not in _states(near.client))
        problem = _when_due(step, on, comparison) if "sleep" in before else _play(step, on, comparison)
        assert problem is None, f"{json.dumps(step)[:200]}\n{problem}"


def _ports(text: str) -> dict[str, str]:
    """Free ports in place of the recorded ones, so that test runs do not meet; bytes hold them with escaped quotes."""
    ports = {port: free_port() for port in sorted(set(re.findall(r'\\?"(77\d\d)\\?"', text)))}
    plain = {f'"{port}"': f'"{free}"' for port, free in ports.items()}
    return plain | {f'\\"{port}\\"': f'\\"{free}\\"' for port, free in ports.items()}


def _replace(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def _states(client: Client) -> set[str]:
    """Those of remote controllers. One that tries again at its own time is `resetting` for a moment, which the
    recording never met."""
    groups = client.call("bdev_nvme_get_controllers")
    return {controller["state"] for group in groups for controller in group["ctrlrs"]}


def _when_due(step: dict[str, Any], target: EmulatedTarget, comparison: "Comparison") -> str | None:
    """Plays the step that follows a pause: what the pause was for may take longer here than where it was recorded."""
    assert "_get_" in step["method"], "only looking can be repeated"
    with contextlib.suppress(AssertionError):
        wait_for(lambda: _play(step, target, comparison) is None)
    return _play(step, target, comparison)


def _play(step: dict[str, Any], target: EmulatedTarget, comparison: "Comparison") -> str | None:
    """Plays one step; says what differs from the recording."""
    if "file" in step:
        path = Path(step["file"])
        path.write_text(step.get("text", ""))
        if step.get("size"):
            os.truncate(path, step["size"])
        path.chmod(int(step["mode"], 8))
        return None
    if "sleep" in step:
        time.sleep(step["sleep"])
        return None
    if "raw" in step:
        client = target.connect()
        client.send(step["raw"].encode())
        answers = [client.read() for _ in step["got"]]
        client.close()
        return comparison.difference(
            step["got"], [{"closed": True} if answer is None else answer for answer in answers]
        )
    return _call(step, target.client, comparison)


def _call(step: dict[str, Any], client: Client, comparison: "Comparison") -> str | None:
    try:
        result = client.call(step["method"], **(step.get("params") or {}))
    except CallFailedError as error:
        answer = {"code": error.code, "message": error.message}
        return None if answer == step.get("error") else f"failed with {answer}"
    return f"answered {result}" if "error" in step else comparison.difference(step["result"], result)


class Comparison:
    """Compares answers of one scenario. A generated identity may be another one, but must stay the same throughout."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self._chosen = _plain(json.dumps([step.get("params") for step in steps]))
        self._identities: dict[str, str] = {}

    def difference(self, recorded: Any, answered: Any, path: str = "", member: str = "") -> str | None:
        """The first difference, or None."""
        if member in TYPE_ONLY or member.endswith("_latency_ticks") or (member == "trsvcid" and "peer" in path):
            return None if type(recorded) is type(answered) else f"{path}: {answered!r}"
        if isinstance(recorded, dict) and isinstance(answered, dict):
            if recorded.keys() != answered.keys():
                return f"{path}: members {sorted(recorded.keys() ^ answered.keys())}"
            parts = [(recorded[name], answered[name], f"{path}.{name}", name) for name in recorded]
        elif isinstance(recorded, list) and isinstance(answered, list):
            if len(recorded) != len(answered):
                return f"{path}: {len(answered)} elements, recorded {len(recorded)}"
            pairs = zip(recorded, answered, strict=True)
            parts = [(one, other, f"{path}[{number}]", member) for number, (one, other) in enumerate(pairs)]
        elif member in IDENTITIES and isinstance(answered, str):
            return self._identity(recorded, answered, path)
        else:
            return None if recorded == answered else f"{path}: {answered!r}, recorded {recorded!r}"
        return next((problem for part in parts if (problem := self.difference(*part))), None)

    def _identity(self, recorded: str, answered: str, path: str) -> str | None:
        plain = _plain(recorded)
        expected = plain if plain in self._chosen else self._identities.setdefault(plain, _plain(answered))
        same_form = [recorded.isupper(), recorded.count("-")] == [answered.isupper(), answered.count("-")]
        return None if same_form and expected == _plain(answered) else f"{path}: {answered!r}, recorded {recorded!r}"


def _plain(identity: str) -> str:
    return identity.lower().replace("-", "")

"""One run: a target, an array, a bridge, sixteen clients, disturbances, and the reckoning."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import verify
from tests.chaos.clients import Caller, Crowd, makers
from tests.chaos.disturbance import Disturbance
from tests.chaos.ledger import Ledger
from tests.chaos.processes import ChaosBridge, ChaosEmulator
from tests.chaos.slots import ARRAYS, LISTENERS, Secrets, all_slots, array_nqn
from tests.kinds.world import free_ports
from tests.support.patience import PATIENCE_S
from tests.support.target import Target, wait_until

CLIENTS = 16
_SWEEP_INTERVAL_S = 2.0


@dataclass
class Report:
    """The figures of a run, and what went wrong."""

    seed: str
    seconds: float
    operations: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    resources: int = 0
    bridge_kills: int = 0
    target_kills: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    recoveries_s: list[float] = field(default_factory=list)
    settled_s: float = 0.0
    lost: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing got lost, nothing was left over and nothing is unexplained."""
        return not (self.lost or self.orphans or self.unexplained)

    def quantile_s(self, share: float) -> float:
        """A quantile of the recovery times."""
        ordered = sorted(self.recoveries_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"seed                 {self.seed}"
        yield f"seconds              {self.seconds:.0f}"
        yield f"operations           {self.operations} ({self.operations / max(self.seconds, 1):.0f}/s)"
        yield f"  acknowledged       {self.acknowledged}"
        yield f"  refused            {self.refused}"
        yield f"  answer lost        {self.unknown}"
        yield f"resources at the end {self.resources}"
        yield f"kills of the bridge  {self.bridge_kills}"
        yield f"kills of the target  {self.target_kills}"
        faults = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.faults.items()))
        yield f"faults injected      {faults or 'none'}"
        yield f"recoveries           {len(self.recoveries_s)}"
        yield f"recovery time        p50 {self.quantile_s(0.5):.2f} s, p99 {self.quantile_s(0.99):.2f} s"
        yield f"settled after        {self.settled_s:.2f} s"
        for name in ("lost", "orphans", "unexplained"):
            found: list[str] = getattr(self, name)
            yield f"{name:<21}{len(found)}"
            yield from (f"  {line}" for line in found[:40])


def run(seconds: float, seed: str, folder: Path, *, calm_s: float, pause_s: float, least: int = 0) -> Report:
    """Disturbs for `seconds`, lets the clients work `calm_s` undisturbed, deletes all; reckons after each.

    On a slow machine it goes on until `least` changes have been acknowledged and something has been killed.
    """
    report = Report(seed, seconds)
    ledger, secrets = Ledger(all_slots()), Secrets(random.Random(f"{seed} secrets"))
    array_ports, listen_ports = free_ports(ARRAYS * LISTENERS), free_ports(32)
    with _targets(folder) as (near, far):
        _set_up_arrays(far, array_ports)
        state, shared = f"sqlite:{folder}/state.sqlite", folder / "shared"
        address = f"127.0.0.1:{free_ports(1)[0]}"
        bridge = ChaosBridge(
            folder, spdk=near.socket, state=state, listen=address, sweep_interval_s=_SWEEP_INTERVAL_S,
            notifications_s=0.5, call_timeout_s=PATIENCE_S, log_level="debug",
        )  # fmt: skip
        bridge.start()
        try:
            make = makers(secrets, folder, listen_ports, array_ports, ledger)
            crowd = Crowd(address, ledger, CLIENTS, seed, make)
            _storm(report, crowd, Disturbance(bridge, near, ledger, seed, pause_s), ledger, least)
            _reckon(report, ledger, bridge, near, state, shared)
            report.resources = len(verify.exported(state))
            if report.clean:
                _calm(Crowd(address, ledger, CLIENTS, f"{seed} calm", make), ledger, calm_s)
                _reckon(report, ledger, bridge, near, state, shared)
            if report.clean:
                _take_down(address, ledger)
                _reckon(report, ledger, bridge, near, state, shared)
            report.operations, report.acknowledged = ledger.operations, ledger.acknowledged
            report.refused, report.unknown = ledger.refused, ledger.unknown
            report.unexplained += ledger.unexplained
            logs = [*bridge.logs(), *folder.glob("near*.log"), *folder.glob("far*.log")]
            report.unexplained += verify.leaks(secrets.made, logs, folder)
            report.unexplained += verify.tracebacks(logs)
        finally:
            if bridge.running:
                bridge.kill()
    return report


@contextmanager
def _targets(folder: Path) -> Iterator[tuple[ChaosEmulator, ChaosEmulator]]:
    near, far = ChaosEmulator(folder, "near"), ChaosEmulator(folder, "far")
    try:
        near.start()
        far.start()
        yield near, far
    finally:
        near.kill()
        far.kill()


def _set_up_arrays(far: Target, ports: list[int]) -> None:
    """A subsystem for each remote controller, with a namespace and a few addresses."""
    far.rpc("nvmf_create_transport", trtype="TCP")
    for number in range(ARRAYS):
        nqn, bdev = array_nqn(number), f"Far{number}"
        far.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, serial_number=f"FAR{number}")
        far.rpc("bdev_malloc_create", name=bdev, num_blocks=2048, block_size=512)
        far.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev, "nguid": f"FA{number:030X}"})
        for port in ports[LISTENERS * number : LISTENERS * (number + 1)]:
            address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
            far.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)


def _storm(report: Report, crowd: Crowd, disturbance: Disturbance, ledger: Ledger, least: int) -> None:
    crowd.start()
    disturbance.start()
    ends = time.monotonic() + report.seconds

    def over() -> bool:
        kills = disturbance.bridge_kills + disturbance.target_kills
        enough = ledger.acknowledged >= least and (kills > 0 or least == 0)
        return (time.monotonic() > ends and enough) or bool(disturbance.broken or crowd.broken)

    wait_until(over, "enough has happened", report.seconds + PATIENCE_S)
    try:
        disturbance.stop()
    finally:
        crowd.stop()
    report.bridge_kills, report.target_kills = disturbance.bridge_kills, disturbance.target_kills
    report.faults, report.recoveries_s = disturbance.faults, disturbance.recoveries_s


def _reckon(report: Report, ledger: Ledger, bridge: ChaosBridge, near: ChaosEmulator, state: str, shared: Path) -> None:
    """Takes the faults away, breaks the connection once more, waits for one sweep over everything, and compares.

    What is not as it should be then has to be before long.
    """
    if near.running:
        near.rpc("emulator_clear_faults")
    else:
        near.start_again()
    position, started = bridge.log_size, time.monotonic()
    near.rpc("emulator_inject_fault", action="drop", method="notify_get_notifications", count=1)
    bridge.wait_swept(position, PATIENCE_S)
    time.sleep(1.2 * _SWEEP_INTERVAL_S)
    found = verify.reckon(ledger, bridge, state, near, shared)
    while found and time.monotonic() < started + PATIENCE_S:  # a slow machine has not done all of it yet
        time.sleep(_SWEEP_INTERVAL_S)
        found = verify.reckon(ledger, bridge, state, near, shared)
    report.settled_s = time.monotonic() - started
    report.lost += found.lost
    report.orphans += found.orphans


def _calm(crowd: Crowd, ledger: Ledger, seconds: float) -> None:
    """Lets the clients work undisturbed: every error that they do not deserve is unexplained."""
    ledger.calm, ledger.disturbed_at = True, float("-inf")
    crowd.start()
    time.sleep(seconds)
    crowd.stop()


def _take_down(address: str, ledger: Ledger) -> None:
    """Deletes everything, from the top."""
    caller = Caller(address)
    for entry in reversed(ledger.entries.values()):
        outcome = caller.delete_if_there(entry.slot)
        ledger.record(entry, "delete", None, outcome, time.monotonic())
    caller.close()

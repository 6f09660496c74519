"""The clients: threads that make random changes, and repeat what was not answered."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.chaos.ledger import Entry, Ledger, Outcome, State
from tests.chaos.slots import Maker, Secrets, Slot
from tests.kinds.world import resource_field
from tests.support.bridge import METHODS
from tests.support.patience import PATIENCE_S

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]

# With "*" a secret that is left out stays as it is; these masks name it, so that it is cleared.
_MASKS = {
    "NvmeSubsystem": "spec.nqn,spec.modelNumber,spec.hostnqn,spec.psk",
    "NvmeRemoteController": "multipath,queueSize,tcp.hdgst,tcp.psk",
}


class Caller:
    """One client's connection."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)

    def close(self) -> None:
        """Drops the connection."""
        self._channel.close()

    def create(self, slot: Slot, resource: State) -> Outcome:
        """Creates it, or has it confirmed."""
        field = resource_field(slot.noun)
        return self._call(f"Create{slot.noun}", slot, {field: resource, f"{field}_id": slot.id})

    def update(self, slot: Slot, resource: State) -> Outcome:
        """Replaces it."""
        named = {**(resource or {}), "name": slot.name}
        request = {resource_field(slot.noun): named, "update_mask": _MASKS.get(slot.noun, "*")}
        return self._call(f"Update{slot.noun}", slot, request)

    def delete(self, slot: Slot) -> Outcome:
        """Deletes it."""
        return self._call(f"Delete{slot.noun}", slot, {"name": slot.name})

    def delete_if_there(self, slot: Slot) -> Outcome:
        """Deletes it, or finds it gone."""
        return self._call(f"Delete{slot.noun}", slot, {"name": slot.name, "allow_missing": True})

    def _call(self, method: str, slot: Slot, request: dict[str, Any]) -> Outcome:
        descriptor = METHODS[method]
        message = message_factory.GetMessageClass(descriptor.input_type)()
        if slot.parent and method.startswith("Create"):
            request["parent"] = slot.parent
        json_format.ParseDict(request, message)
        invoke: Any = self._channel.unary_unary(
            f"/{descriptor.containing_service.full_name}/{method}",
            request_serializer=lambda item: item.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString,
        )
        try:
            invoke(message, timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError as problem:
            return _outcome(problem)
        return Outcome()


def _outcome(problem: Any) -> Outcome:
    status = rpc_status.from_call(problem)
    reason = ""
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    return Outcome(problem.code().name, problem.details() or "", reason)


class Crowd:
    """A number of clients at work until they are told to stop."""

    def __init__(
        self, address: str, ledger: Ledger, count: int, seed: str, maker: Callable[[random.Random], Maker]
    ) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(address, ledger, random.Random(f"{seed} {number}"), maker))
            for number in range(count)
        ]
        self.broken: list[BaseException] = []

    def start(self) -> None:
        """Sends them to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets each finish its operation; raises what broke a client."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.broken:
            raise self.broken[0]

    def _work(self, address: str, ledger: Ledger, rng: random.Random, maker: Callable[[random.Random], Maker]) -> None:
        caller, maker_of_mine = Caller(address), maker(rng)
        try:
            while not self._stop.is_set():
                entry = ledger.take(rng)
                try:
                    _operate(caller, ledger, entry, rng, maker_of_mine)
                finally:
                    ledger.release(entry)
        except BaseException as problem:
            self.broken.append(problem)
        finally:
            caller.close()


def _operate(caller: Caller, ledger: Ledger, entry: Entry, rng: random.Random, maker: Maker) -> None:
    """One random change; one whose answer got lost is often repeated until it is answered."""
    luck, slot = rng.random(), entry.slot
    if entry.known is None or luck < 0.05:
        verb, wanted = "create", maker.make(slot, entry.known)
    elif luck < 0.15:
        verb, wanted = "create", entry.known  # it exists: the answer must be what it is
    elif luck < 0.6:
        verb, wanted = "update", maker.make(slot, entry.known)
    else:
        verb, wanted = "delete", None
    for _ in range(rng.choice([1, 4, 8])):
        started = time.monotonic()
        if verb == "delete":
            outcome = caller.delete(slot)
        else:
            outcome = caller.create(slot, wanted) if verb == "create" else caller.update(slot, wanted)
        ledger.record(entry, verb, wanted, outcome, started)
        if not outcome.unknown:
            return


def makers(
    secrets: Secrets, folder: Path, listen_ports: list[int], array_ports: list[int], ledger: Ledger
) -> Callable[[random.Random], Maker]:
    """Makes each client a maker of resources with its own randomness."""
    return lambda rng: Maker(rng, secrets, folder, listen_ports, array_ports, ledger.likely)

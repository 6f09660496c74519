"""A resource as the bridge keeps it: what was asked for, and what the bridge itself has to remember of it."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from pydantic import TypeAdapter

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
P = TypeVar("P", bound="Own")
P_co = TypeVar("P_co", bound="Own", covariant=True)

Facts = Mapping[str, Any]
"""Values to show, by the path of their field (`spec.uuid`)."""

_filled: dict[type[Any], Mapping[str, str]] = {}
_adapters: dict[type[Any], TypeAdapter[Any]] = {}
_PATH = "path"  # in the metadata of a field of Own: the field of the resource in which it is shown


HIDDEN = "~"
"""In the name of a record that is gone for clients: before what makes the name another; IDs of clients have none."""


class Phase(enum.StrEnum):
    """How far a record's last change has come."""

    CREATING = "creating"
    READY = "ready"
    UPDATING = "updating"
    DELETING = "deleting"
    DELETED = "deleted"
    """Gone for clients; something that had to wait is left to do on the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What the bridge keeps of a resource for itself: identities that it chose or learnt, what references led to.

    Each kind that keeps anything has a class of its own, whose fields all have a default: what an older state lacks.
    """


def fills(path: str) -> Any:
    """For a field of `Own` that is shown at that path of the resource where the client left it open, else None."""
    return dataclasses.field(default=None, metadata={_PATH: path})


def filled(own: type[Any]) -> Mapping[str, str]:
    """The names of such fields by the path that they fill."""
    if own not in _filled:
        fields = (field for field in dataclasses.fields(own) if _PATH in field.metadata)
        _filled[own] = {field.metadata[_PATH]: field.name for field in fields}
    return _filled[own]


def _adapter(own: type[Any]) -> TypeAdapter[Any]:
    if own not in _adapters:
        _adapters[own] = TypeAdapter(own)
    return _adapters[own]


def to_json(own: Own) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what is shown, by path; the rest by name) as JSON values, without what has its default."""
    kept = _adapter(type(own)).dump_python(own, mode="json", exclude_defaults=True)
    shown = {path: kept.pop(name) for path, name in filled(type(own)).items() if name in kept}
    return shown, kept


def from_json(own: type[P], shown: Mapping[str, Any], kept: Mapping[str, Any]) -> P:
    """The reverse of `to_json`; raises ValueError for what is not of that make."""
    names = filled(own)
    values = {**kept, **{names[path]: value for path, value in shown.items() if path in names}}
    made: P = _adapter(own).validate_python(values)
    return made


@dataclass(frozen=True, slots=True)
class Record(Generic[M_co, P_co]):
    """A resource as the bridge keeps it.

    desired    what the client asked for: normalised, secrets in clear, no name, no outputs, nothing filled in
    own        what the bridge keeps of it for itself
    stands_on  names of the resources that may not go while this one exists
    previous   during an update, the record before it: what may still be there of it is to go; while an update is taken
               back, the record that it was to become
    """

    kind: str
    name: str
    desired: M_co
    phase: Phase
    revision: int
    created_at: float
    updated_at: float
    own: P_co
    stands_on: tuple[str, ...] = ()
    previous: Record[M_co, P_co] | None = None

    @property
    def parent(self) -> str:
        """The name of the resource that this one is nested in by name; "" at the top."""
        return self.name.rsplit("/", 2)[0] if self.name.count("/") > 1 else ""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def object_name(self) -> str:
        """The ID that it has, or had, for clients: what its object on the target is named by."""
        return self.id.partition(HIDDEN)[0]

    def hidden(self, desired: Any) -> AnyRecord:
        """What is kept of it, with `desired`, once it is gone for clients: under a name that none can ask for."""
        name = self.name if self.phase is Phase.DELETED else f"{self.name}{HIDDEN}{uuid.uuid4().hex[:8]}"
        return dataclasses.replace(self, name=name, desired=desired, phase=Phase.DELETED, stands_on=(), previous=None)

    @property
    def assigned(self) -> Facts:
        """What fills fields that the client left open, by path."""
        values = {path: getattr(self.own, name) for path, name in filled(type(self.own)).items()}
        return {path: value for path, value in values.items() if value is not None}

    @property
    def states(self) -> tuple[Record[M_co, P_co], ...]:
        """The record and, while it changes, the one that it was."""
        return (self,) if self.previous is None else (self, self.previous)


AnyRecord = Record[Any, Any]

"""Who may do what: a policy file maps identities to roles, and roles to methods and resource names.

```toml
[[identity]]
name = "ops"
subjects = ["ops.example.org"]           # common names and subject alternative names of client certificates
token_sha256 = ["2bb8…"]                 # hashes of bearer tokens
listeners = ["local"]                    # identities given to Unix listeners (--listen unix:PATH,identity=local)
role = "operator"

[[role]]
name = "tenant-a"
methods = ["*"]
names = ["nvmeSubsystems/tenant-a-*", "mallocVolumes/tenant-a-*"]
```

The roles viewer, operator and admin exist already. `*` in a pattern stands for anything. A name is allowed when it, or
a resource that it is nested in, matches one of `names`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from google.api import resource_pb2
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.bind import READS

_READS = tuple(f"{verb}*" for verb in READS)
_HASH = re.compile(r"[0-9a-f]{64}")
_REFERENCES = ("volume_name_ref", "target_name_ref", "controller_name_ref")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Role(_Entry):
    """What a role may do: methods by their short name, on resources by their canonical name."""

    name: str
    methods: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ("*",)

    def allows_method(self, method: str) -> bool:
        """Whether the short name of a method matches."""
        return any(fnmatch.fnmatchcase(method, pattern) for pattern in self.methods)

    def allows_name(self, name: str) -> bool:
        """Whether a resource, or one that it is nested in, matches."""
        parts = name.split("/")
        outer = ["/".join(parts[:count]) for count in range(2, len(parts) + 1, 2)] or [name]
        return any(fnmatch.fnmatchcase(each, pattern) for each in outer for pattern in self.names)

    @property
    def unrestricted(self) -> bool:
        """Whether every name is allowed."""
        return "*" in self.names


class Identity(_Entry):
    """Somebody who may connect, and how they are told from others."""

    name: str
    role: str
    subjects: tuple[str, ...] = ()
    token_sha256: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()

    @field_validator("token_sha256")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        for each in hashes:
            if not _HASH.fullmatch(each):
                raise ValueError("a token's hash is 64 lower-case hexadecimal digits (printf %s TOKEN | sha256sum)")
        return hashes


_BUILT_IN = (
    Role(name="viewer", methods=_READS),
    Role(name="operator", methods=(*_READS, "Create*", "Update*", "Delete*", "Reset*")),
    Role(name="admin"),
)


class _File(_Entry):
    identity: tuple[Identity, ...] = ()
    role: tuple[Role, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """What the connection tells of a caller: the names in its certificate, the identity of its listener, its token."""

    certificate: Sequence[str] = ()
    listener: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """An authenticated caller."""

    name: str
    role: Role


def bearer(authorization: str) -> str:
    """The token of an Authorization header (RFC 6750); "" without one."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class Authorizer(Protocol):
    """Decides who a caller is and what they may do."""

    def identify(self, peer: Peer) -> Subject:
        """Who the peer is; raises Unauthenticated."""


class Everyone:
    """No policy: whoever a listener lets in is admin."""

    def identify(self, peer: Peer) -> Subject:
        return Subject(peer.listener or next(iter(peer.certificate), "anyone"), _BUILT_IN[2])


class Policy:
    """A policy file's rules."""

    def __init__(self, identities: Sequence[Identity], roles: Mapping[str, Role]) -> None:
        self._identities = identities
        self._roles = roles

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Reads the file; raises FailedPrecondition saying what is wrong and where."""
        try:
            with path.open("rb") as file:
                read = _File.model_validate(tomllib.load(file))
        except OSError as problem:
            raise errors.FailedPrecondition(f"the policy {path} cannot be read: {problem.strerror}") from problem
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise errors.FailedPrecondition(f"the policy {path} is not TOML: {problem}") from problem
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise errors.FailedPrecondition(f"the policy {path} is wrong at {where}: {first['msg']}") from None
        roles = {role.name: role for role in (*_BUILT_IN, *read.role)}
        for identity in read.identity:
            if identity.role not in roles:
                text = f"the policy {path} gives {identity.name} the role {identity.role!r}, which it does not define"
                raise errors.FailedPrecondition(text)
        return cls(read.identity, roles)

    def identify(self, peer: Peer) -> Subject:
        digest = hashlib.sha256(peer.token.encode()).hexdigest() if peer.token else ""
        for identity in self._identities:
            known = (
                any(name in identity.subjects for name in peer.certificate)
                or (bool(peer.listener) and peer.listener in identity.listeners)
                or any(hmac.compare_digest(digest, each) for each in identity.token_sha256 if digest)
            )
            if known:
                return Subject(identity.name, self._roles[identity.role])
        text = "the policy knows neither a certificate, a listener nor a token of yours"
        raise errors.Unauthenticated(text)


def require_allowed(subject: Subject, method: str, request: Message) -> None:
    """Raises PermissionDenied unless the subject may call the method on everything that the request names."""
    role = subject.role
    if not role.allows_method(method):
        raise errors.PermissionDenied(f"{subject.name} (role {role.name}) may not call {method}")
    if role.unrestricted:
        return
    for name in _names(method, request):
        if not role.allows_name(name):
            raise errors.PermissionDenied(f"{subject.name} (role {role.name}) may not do that with {name}")


def require_unrestricted(subject: Subject, what: str) -> None:
    """Raises PermissionDenied unless the subject may see every resource: for what shows them all at once."""
    if not subject.role.unrestricted:
        text = f"{subject.name} (role {subject.role.name}) may see some resources only, and {what} shows all of them"
        raise errors.PermissionDenied(text)


def visible(subject: Subject, answer: Message) -> Message:
    """A list's answer with only what the subject may see; changed in place."""
    if subject.role.unrestricted:
        return answer
    for field in answer.DESCRIPTOR.fields:
        if field.is_repeated and field.message_type is not None and "name" in field.message_type.fields_by_name:
            items = getattr(answer, field.name)
            allowed = [item for item in items if subject.role.allows_name(item.name)]
            if len(allowed) < len(items):
                answer.ClearField(field.name)
                getattr(answer, field.name).extend(allowed)
    return answer


def _names(method: str, request: Any) -> Iterator[str]:
    """Every resource that a request is about: its name, its parent, what is to be made, what it refers to."""
    listed = method.startswith("List")
    for field in request.DESCRIPTOR.fields:
        value = getattr(request, field.name)
        refers = field.name in _REFERENCES and value
        if field.name == "name" or (field.name == "parent" and not listed) or refers:
            yield value
        elif field.name.endswith("_id") and field.message_type is None:
            yield _created(request, field.name, value)
        elif field.message_type is not None and not field.is_repeated:
            if getattr(value, "name", ""):
                yield value.name
            yield from _references(value)


def _created(request: Any, field: str, resource_id: str) -> str:
    """The name that a create request asks for; one that the server would choose is nobody's."""
    message = request.DESCRIPTOR.fields_by_name[field.removesuffix("_id")].message_type
    collection = message.GetOptions().Extensions[resource_pb2.resource].pattern[0].split("/")[-2]
    parent = getattr(request, "parent", "")
    return f"{parent}/{collection}/{resource_id}" if parent else f"{collection}/{resource_id}"


def _references(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name in _REFERENCES:
            yield value
        elif field.message_type is not None and not field.is_repeated:
            yield from _references(value)

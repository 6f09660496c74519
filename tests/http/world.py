"""One resource of every kind, made over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.http.web import Web
from tests.kinds.cases import CASES
from tests.kinds.world import NOUNS, World, collection, parent_noun


@dataclass(frozen=True)
class Made:
    """A resource that was created over HTTP: what was sent, and the answer."""

    name: str
    body: dict[str, Any]
    answer: dict[str, Any]

    @property
    def collection(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def id(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def parent(self) -> dict[str, str]:
        return {"parent": self.collection.rpartition("/")[0]} if self.collection.count("/") else {}


def snake(noun: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in noun).lstrip("_")


def create(served: Web, world: World) -> dict[str, Made]:
    """Makes one of every kind, in dependency order, and returns them by their noun."""
    made: dict[str, Made] = {}
    cases = {case.noun: case for case in CASES}
    for noun in NOUNS:
        resource_id, wanted = cases[noun].shown_as
        outer = parent_noun(noun)
        path = f"{made[outer].name}/{collection(noun)}" if outer else collection(noun)
        body = wanted(world)
        answer = served.http.post(f"/v1/{path}?{snake(noun)}_id={resource_id}", json=body)
        assert answer.status_code == 200, answer.text
        made[noun] = Made(f"{path}/{resource_id}", body, answer.json())
    return made


def delete(served: Web, made: dict[str, Made]) -> None:
    """Takes away what is left of them."""
    for item in reversed(made.values()):
        answer = served.http.delete(f"/v1/{item.name}?allow_missing=true")
        assert answer.status_code == 200, answer.text

"""What Get gave can be sent back: nothing that the bridge or the target filled in becomes the client's wish by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.web import Web
from tests.http.world import Made, snake
from tests.kinds.world import NOUNS


def _create_again(served: Web, made: Made, noun: str) -> Any:
    """An equal request gets what exists: it is not equal where something has become the client's wish."""
    return served.http.post(f"/v1/{made.collection}?{snake(noun)}_id={made.id}", json=made.body)


@pytest.mark.parametrize("mask", ["", "?updateMask=*"])
@pytest.mark.parametrize("noun", NOUNS)
def test_what_get_gave_changes_nothing(served: Web, world: dict[str, Made], noun: str, mask: str) -> None:
    made = world[noun]
    got = served.http.get(f"/v1/{made.name}").json()
    answer = served.http.patch(f"/v1/{made.name}{mask}", json=got)
    assert (answer.status_code, answer.json()) == (200, got), answer.text
    again = _create_again(served, made, noun)
    assert (again.status_code, again.json()) == (200, got), again.text


def test_an_aio_volumes_sizes_stay_open(served: Web, tmp_path: Path) -> None:
    for name, blocks in (("large", 2048), ("small", 1024)):
        (tmp_path / name).write_bytes(bytes(512 * blocks))
    made = Made("aioVolumes/open", {"filename": str(tmp_path / "large")}, {})
    assert _create_again(served, made, "AioVolume").status_code == 200
    got = served.http.get(f"/v1/{made.name}").json()
    assert (got["blockSize"], got["blocksCount"]) == ("512", "2048")
    assert served.http.patch(f"/v1/{made.name}", json=got).json() == got
    assert _create_again(served, made, "AioVolume").json() == got
    moved = served.http.patch(f"/v1/{made.name}", json={"filename": str(tmp_path / "small")})
    assert moved.status_code == 200, moved.text
    assert moved.json()["blocksCount"] == "1024"
    served.http.delete(f"/v1/{made.name}")

"""The page, in a real browser."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.browser import EXECUTABLE, Browser, browser
from tests.http.web import Web
from tests.http.world import Made
from tests.kinds.world import FAR_NQN
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs chromium")

_PICTURE = "PAGE_PICTURE"
"""The variable that says where the picture of the page is to be written (docs/page.png)."""
_FOCUSED = "document.activeElement.dataset.key"


def _row(name: str) -> str:
    return f"document.querySelector('[data-key=\"{name}\"] > .row')"


def _is_shown(name: str) -> str:
    return f"{_row(name)} !== null"


def _text(name: str) -> str:
    return f"{_row(name)}?.innerText"


@pytest.fixture(scope="module")
def page(served: Web, world: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that shows the page of a bridge with one resource of every kind."""
    with browser(tmp_path_factory.mktemp("browser")) as shown:
        yield shown


@pytest.fixture(autouse=True)
def _shown(served: Web, page: Browser) -> None:
    page.open(f"{served.url}/")
    page.wait_for(_is_shown("nvmeSubsystems/same"))


def _go_to(page: Browser, name: str) -> None:
    """With the keyboard alone."""
    page.press("Home")
    for _ in range(60):
        if page.evaluate(_FOCUSED) == name:
            return
        page.press("ArrowDown")
    raise AssertionError(f"{name} cannot be reached")


def _open_below(page: Browser, name: str, below: str) -> None:
    _go_to(page, name)
    page.press("ArrowRight")
    page.wait_for(_is_shown(below))


def test_the_head_tells_health_and_the_targets_version(served: Web, page: Browser) -> None:
    head = page.wait_for("document.querySelector('header').innerText")
    assert "SPDK v" in head
    assert "✓ target connected" in head
    assert "✓ first sweep done" in head
    assert page.evaluate("document.querySelector('a[href=\"/openapi.json\"]') !== null")


def test_the_tree_opens_from_subsystem_to_volume_with_the_keyboard(served: Web, page: Browser) -> None:
    for _ in range(8):
        page.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "treeitem":
            break
    assert page.evaluate(_FOCUSED) == "nvmeSubsystems"
    _open_below(page, "nvmeSubsystems/same", "nvmeSubsystems/same/nvmeControllers/tcp")
    assert "TCP 127.0.0.1:" in page.evaluate(_text("nvmeSubsystems/same/nvmeControllers/tcp"))
    assert "● active" in page.evaluate(_text("nvmeSubsystems/same/nvmeControllers/tcp"))
    assert "● online" in page.evaluate(_text("nvmeSubsystems/same/nvmeNamespaces/ns"))
    _open_below(page, "nvmeSubsystems/same/nvmeNamespaces/ns", "encryptedVolumes/same-crypto")
    _open_below(page, "encryptedVolumes/same-crypto", "mallocVolumes/same-malloc")
    assert "1 MiB" in page.evaluate(_text("mallocVolumes/same-malloc"))
    page.press("ArrowLeft")
    page.wait_for(f"!{_row('mallocVolumes/same-malloc')}")
    page.press("ArrowLeft")
    assert page.evaluate(_FOCUSED) == "nvmeSubsystems/same/nvmeNamespaces/ns"
    page.press("End")
    assert page.evaluate(_FOCUSED) == "qosVolumes"


def test_remote_paths_are_below_their_controller(served: Web, page: Browser) -> None:
    page.evaluate("document.querySelector('[role=treeitem]').focus()")
    _open_below(page, "nvmeRemoteControllers", "nvmeRemoteControllers/same")
    _open_below(page, "nvmeRemoteControllers/same", "nvmeRemoteControllers/same/nvmePaths/path")
    assert FAR_NQN in page.evaluate(_text("nvmeRemoteControllers/same/nvmePaths/path"))


def test_a_resource_can_be_read_in_full_and_has_no_secret(served: Web, world: dict[str, Made], page: Browser) -> None:
    page.evaluate("document.querySelector('[role=treeitem]').focus()")
    _open_below(page, "encryptedVolumes", "encryptedVolumes/same-crypto")
    _go_to(page, "encryptedVolumes/same-crypto")
    page.press("Enter")
    details = page.wait_for("document.getElementById('details').innerText.includes('cipher') && details.innerText")
    assert json.loads(details)["name"] == "encryptedVolumes/same-crypto"
    assert world["EncryptedVolume"].body["key"] not in page.evaluate("document.documentElement.outerHTML")


def test_what_is_made_elsewhere_appears_and_what_is_deleted_goes(served: Web, page: Browser) -> None:
    page.evaluate("document.querySelector('[role=treeitem]').focus()")
    body = {"spec": {"nqn": "nqn.2022-09.io.spdk:live", "modelNumber": "<b>bold</b>"}}
    served.http.post("/v1/nvmeSubsystems?nvme_subsystem_id=live", json=body)
    page.wait_for(_is_shown("nvmeSubsystems/live"))
    assert page.evaluate(_FOCUSED) == "nvmeSubsystems", "the focus stays where it was"
    served.http.delete("/v1/nvmeSubsystems/live")
    page.wait_for(f"!{_row('nvmeSubsystems/live')}")


def test_throughput_is_shown_for_each_volume(
    served: Web, near_and_far: tuple[Emulator, Emulator], page: Browser
) -> None:
    near, _ = near_and_far
    page.evaluate("document.querySelector('[role=treeitem]').focus()")
    _open_below(page, "mallocVolumes", "mallocVolumes/same-malloc")
    _open_below(page, "nvmeSubsystems/same", "nvmeSubsystems/same/nvmeNamespaces/ns")
    end = time.monotonic() + PATIENCE_S
    rate = f"/[1-9][^ ]* [KMG]iB\\/s · [1-9]/.test({_text('nvmeSubsystems/same/nvmeNamespaces/ns')})"
    while not page.evaluate(rate):
        near.rpc("emulator_run_io", name="same-crypto", reads=4000, writes=2000, blocks=8)
        assert time.monotonic() < end, page.evaluate("document.body.innerText")
        time.sleep(0.2)
    if _PICTURE in os.environ:
        _go_to(page, "nvmeSubsystems/same")
        page.press("Enter")
        _open_below(page, "nvmeSubsystems/same/nvmeNamespaces/ns", "encryptedVolumes/same-crypto")
        _open_below(page, "nvmeRemoteControllers", "nvmeRemoteControllers/same")
        _open_below(page, "nvmeRemoteControllers/same", "nvmeRemoteControllers/same/nvmePaths/path")
        near.rpc("emulator_run_io", name="same-crypto", reads=4000, writes=2000, blocks=8)
        time.sleep(2.2)
        near.rpc("emulator_run_io", name="same-crypto", reads=4000, writes=2000, blocks=8)
        time.sleep(2.2)
        shown = "document.getElementById('target')"
        page.evaluate(f"{shown}.textContent = {shown}.textContent.replace({near.socket!r}, '/var/tmp/spdk.sock')")
        page.picture(Path(os.environ[_PICTURE]))


def test_the_page_asks_nobody_but_its_bridge_and_has_no_errors(served: Web, page: Browser) -> None:
    page.wait_for("performance.getEntriesByType('resource').filter((e) => e.name.includes('/page/state')).length > 1")
    assert [url for url in page.requested if not url.startswith((served.url, "about:"))] == []
    assert page.complaints == []

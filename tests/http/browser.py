"""Chromium without a screen, driven over the DevTools protocol on a pipe."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_S

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# The browser reads commands from descriptor 3 and writes answers and events to 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {"Enter": "\r", " ": " ", "Tab": "\t"}


class Browser:
    """One page of a running browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session = ""
        self.requested: list[str] = []
        """Every URL that the page has asked for."""
        self.complaints: list[str] = []
        """Exceptions and errors in the page's console."""

    def open(self, url: str, width: int = 1280, height: int = 800) -> None:
        """Shows a page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )  # fmt: skip
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Presses and lets go of a key, such as ArrowDown."""
        text = {"text": _KEYS[key]} if key in _KEYS else {}
        code = {"key": key, "code": "Space" if key == " " else key}
        virtual = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36}.get(key, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", windowsVirtualKeyCode=virtual, **code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=virtual, **code)

    def wait_for(self, expression: str, seconds: float = PATIENCE_S) -> Any:
        """The first value of an expression that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.evaluate(expression)
            if value:
                return value
            time.sleep(0.05)
        shown = self.evaluate("document.body.innerText")
        raise AssertionError(f"{expression} did not become true in {seconds} s; the page shows:\n{shown}")

    def picture(self, path: Path) -> None:
        """Writes what is shown as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def send(self, method: str, **params: Any) -> Any:
        """Carries out a command and returns its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            received = os.read(self._answers, 1 << 20) if ready else b""
            assert received, "the browser does not answer"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(json.dumps(params["entry"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own below `folder`."""
    assert EXECUTABLE is not None
    (to_read, commands), (answers, to_write) = os.pipe(), os.pipe()
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip
    command = [sys.executable, "-c", _START, str(to_read), str(to_write), EXECUTABLE, *flags]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(to_read, to_write), stdout=log, stderr=log)
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        os.close(commands)
        os.close(answers)

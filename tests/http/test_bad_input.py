"""Requests that are wrong over HTTP: the right 4xx, with a google.rpc.Status that names the field."""

from __future__ import annotations

import gzip
import re
import socket
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.web import Web, problem_of, web
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.target import Emulator

_VOLUME = {"block_size": 512, "blocks_count": 8}


@pytest.mark.parametrize(
    ("http_method", "url", "body", "expected"),
    [
        ("POST", "/v1/nullVolumes", b"{", (400, 3, "body")),
        ("POST", "/v1/nullVolumes", b"\xff\xfe", (400, 3, "body")),
        ("POST", "/v1/nullVolumes", b"[" * 10_000, (400, 3, "body")),
        ("POST", "/v1/nullVolumes", b"[]", (400, 3, "null_volume")),
        ("POST", "/v1/nullVolumes", b"", (400, 3, "null_volume.block_size")),
        ("POST", "/v1/nullVolumes", b'{"blockSize":"x"}', (400, 3, "null_volume.block_size")),
        ("POST", "/v1/nullVolumes", b'{"colour":1}', (400, 3, "null_volume.colour")),
        ("POST", "/v1/nullVolumes?null_volume_id=-", b"{}", (400, 3, "null_volume_id")),
        ("PATCH", "/v1/nullVolumes/x?update_mask=colour", b"{}", (404, 5, "")),
        ("GET", "/v1/nullVolumes?page_size=-1", b"", (400, 3, "page_size")),
        ("GET", "/v1/nullVolumes?page_size=x", b"", (400, 3, "page_size")),
        ("GET", "/v1/nullVolumes?page_token=x", b"", (400, 3, "page_token")),
        ("GET", "/v1/nullVolumes?colour=red", b"", (400, 3, "colour")),
        ("GET", "/v1/nullVolumes/" + "a" * 64, b"", (400, 3, "name")),
        ("GET", "/v1/nullVolumes/a%20b", b"", (400, 3, "name")),
        ("GET", "/v1/nullVolumes/absent", b"", (404, 5, "")),
        ("GET", "/v1/nullVolumes/-a", b"", (404, 5, "")),
        ("GET", "/v1/nullVolumes/", b"", (404, 5, "")),
        ("GET", "/v1/nullVolumes/a:colour", b"", (404, 5, "")),
        ("GET", "/v2/nullVolumes", b"", (404, 5, "")),
        ("GET", "/nothing", b"", (404, 5, "")),
        ("GET", "/page/__init__.py", b"", (404, 5, "")),
        ("PUT", "/v1/nullVolumes", b"{}", (405, 12, "")),
        ("DELETE", "/v1/nullVolumes", b"", (405, 12, "")),
        ("BREW", "/v1/nullVolumes", b"", (405, 12, "")),
        ("POST", "/healthz", b"", (405, 12, "")),
        ("GET", "/v1/nullVolumes?page_token=" + "a" * 8200, b"", (414, 3, "url")),
        ("GET", "/v1/" + "a" * 9000, b"", (414, 3, "url")),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    served: Web, http_method: str, url: str, body: bytes, expected: tuple[int, int, str]
) -> None:
    assert problem_of(served.http.request(http_method, url, content=body)) == expected


def test_a_wrong_method_is_told_the_right_ones(served: Web) -> None:
    assert served.http.put("/v1/nullVolumes", json={}).headers["allow"] == "GET, POST"
    assert served.http.post("/v1/nullVolumes/x", json={}).headers["allow"] == "DELETE, GET, PATCH"


def test_a_large_body_is_refused_before_it_is_sent(served: Web) -> None:
    headers = {"content-length": str(5 * 1024 * 1024)}
    with httpx.Client(base_url=served.url, timeout=PATIENCE_S) as client:
        answer = client.post("/v1/nullVolumes", content=b" " * (5 * 1024 * 1024), headers=headers)
    assert problem_of(answer) == (413, 3, "body")


def test_a_large_body_is_refused_when_its_length_is_not_told(served: Web) -> None:
    def chunks() -> Any:
        for _ in range(80):
            yield b" " * 65536

    with httpx.Client(base_url=served.url, timeout=PATIENCE_S) as client:
        answer = client.post("/v1/nullVolumes", content=chunks())
    assert problem_of(answer) == (413, 3, "body")


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
def test_a_body_is_json_whatever_its_type(served: Web, content_type: str) -> None:
    content, headers = b'{"block_size": 512, "blocksCount": "8"}', {"content-type": content_type}
    answer = served.http.post("/v1/nullVolumes?null_volume_id=typed", content=content, headers=headers)
    assert answer.json()["blocksCount"] == "8"
    served.http.delete("/v1/nullVolumes/typed")


_NULL_VOLUME = b'{"block_size": 512, "blocks_count": 8}'
_GZIPPED = gzip.compress(_NULL_VOLUME, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", _GZIPPED),
        ("GZip", _GZIPPED),
        ("deflate", zlib.compress(_NULL_VOLUME)),
        ("br", b"\x0b\x12\x80"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("no-such-coding", _NULL_VOLUME),
        ("gzip", _NULL_VOLUME),
        ("identity, gzip", _GZIPPED),
        ("gzip", b""),
        ("x" * 4000, _NULL_VOLUME),
    ],
)
def test_an_encoded_body_is_a_415(served: Web, coding: str, body: bytes) -> None:
    headers = {"content-encoding": coding}
    requests = [
        ("POST", "/v1/nullVolumes?null_volume_id=encoded"),
        ("PATCH", "/v1/nullVolumes/encoded"),
        ("POST", "/v1/nvmeRemoteControllers/encoded:reset"),
    ]
    for http_method, url in requests:
        answer = served.http.request(http_method, url, content=body, headers=headers)
        assert problem_of(answer) == (415, 3, "body")
        assert answer.headers["accept-encoding"] == "identity"
        assert len(answer.json()["message"]) < 200
    assert served.http.get("/v1/nullVolumes/encoded").status_code == 404


def test_encoded_bodies_in_several_headers_are_a_415(served: Web) -> None:
    twice = [("content-encoding", "identity"), ("content-encoding", "br")]
    assert problem_of(served.http.post("/v1/nullVolumes", content=_NULL_VOLUME, headers=twice)) == (415, 3, "body")


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
def test_a_body_that_is_as_it_is_may_say_so(served: Web, coding: str) -> None:
    url, headers = "/v1/nullVolumes?null_volume_id=plain", {"content-encoding": coding}
    assert served.http.post(url, content=_NULL_VOLUME, headers=headers).status_code == 200
    served.http.delete("/v1/nullVolumes/plain")


def test_a_request_id_is_echoed_or_made(served: Web) -> None:
    given = {"x-request-id": "mine-1"}
    for path in ("/v1/nullVolumes", "/v1/nothing", "/healthz", "/nothing", f"/v1/{'a' * 9000}"):
        assert served.http.get(path, headers=given).headers["x-request-id"] == "mine-1"
    assert re.fullmatch(r"[0-9a-f]{32}", served.http.get("/healthz").headers["x-request-id"])
    assert served.http.get("/healthz", headers={"x-request-id": "no good"}).headers["x-request-id"] != "no good"


def test_changes_from_web_pages_of_others_are_refused(served: Web) -> None:
    """Any page that a browser on this machine shows could send them: a body of type text/plain needs no leave."""
    foreign = {"origin": "https://example.org"}
    answer = served.http.post("/v1/nullVolumes?null_volume_id=foreign", json=_VOLUME, headers=foreign)
    assert problem_of(answer) == (403, 7, "")
    assert served.http.get("/v1/nullVolumes/foreign").status_code == 404
    assert served.http.get("/v1/nullVolumes", headers=foreign).status_code == 200
    own = {"origin": served.url}
    assert served.http.post("/v1/nullVolumes?null_volume_id=own", json=_VOLUME, headers=own).status_code == 200
    assert served.http.delete("/v1/nullVolumes/own", headers=own).status_code == 200


def test_head_is_get_without_its_body(served: Web) -> None:
    answer = served.http.head("/v1/nullVolumes")
    assert (answer.status_code, answer.content) == (200, b"")
    assert served.http.head("/v1/nullVolumes/absent").status_code == 404


def test_errors_of_the_engine_have_their_http_code(served: Web) -> None:
    created = served.http.post("/v1/nullVolumes?null_volume_id=twice", json=_VOLUME)
    again = served.http.post("/v1/nullVolumes?null_volume_id=twice", json={**_VOLUME, "blocks_count": 16})
    assert created.status_code == 200
    assert problem_of(again)[:2] == (409, 6)
    served.http.delete("/v1/nullVolumes/twice")


def test_what_get_returned_can_be_changed_and_sent_back_without_harm_to_secrets(served: Web) -> None:
    """Answers leave out what is not set: sent back, they do not clear a key that they do not show."""
    key = "TlZNZVRMU2tleS0xOjAxOk1EQXhNVEl5TXpNME5EVTFOalkzTnpnNE9UbGhZV0ppWTJOa1pHVmxabVp3SkVpUTo="
    body = {"multipath": "NVME_MULTIPATH_MULTIPATH", "tcp": {"psk": key}}
    made = served.http.post("/v1/nvmeRemoteControllers?nvme_remote_controller_id=secret", json=body).json()
    assert "psk" not in made["tcp"]
    answer = served.http.patch("/v1/nvmeRemoteControllers/secret", json={**made, "ioQueuesCount": "4"})
    assert answer.json()["ioQueuesCount"] == "4", answer.text
    again = served.http.post("/v1/nvmeRemoteControllers?nvme_remote_controller_id=secret", json={
        **body, "ioQueuesCount": 4,
    })  # fmt: skip
    assert again.status_code == 200, "the key is no longer the one that was given"
    served.http.delete("/v1/nvmeRemoteControllers/secret")


def test_names_are_canonical_where_grpc_has_legacy_ones(own_http: Web) -> None:
    own_http.http.post("/v1/nullVolumes?null_volume_id=disk", json=_VOLUME)
    assert own_http.call("GetNullVolume", {"name": "nullVolumes/disk"})["name"] == "volumes/disk"
    assert own_http.http.get("/v1/nullVolumes/disk").json()["name"] == "nullVolumes/disk"
    assert own_http.http.get("/v1/nullVolumes").json()["nullVolumes"][0]["name"] == "nullVolumes/disk"


def test_the_daemon_ends_in_good_order_and_says_nothing_of_its_http_server(spdk: Emulator, tmp_path: Path) -> None:
    with web(tmp_path, spdk=spdk.socket, state="memory:", drain_s=HOUR_S) as daemon:
        daemon.http.get("/v1/nullVolumes")
        with socket.create_connection(daemon.place, PATIENCE_S):
            assert daemon.stop() == 0, "it waits for requests at work, not for connections without one"
        assert "uvicorn" not in daemon.log
        assert "Traceback" not in daemon.log

"""TLS and mTLS on both servers."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import shutil
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.tls import Tls
from opi_spdk_bridge.pb.storage.backend_null_pb2 import ListNullVolumesResponse, NullVolume
from tests.security.conftest import Files
from tests.security.served import BOTH, GRPC, HTTP, call, gets_in, serial, serving
from tests.support.certificates import Authority
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
_EXPIRED = datetime.timedelta(days=-1)
both = pytest.mark.parametrize("protocol", BOTH)


def _only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL itself refuses the old ones
    context.minimum_version = context.maximum_version = version
    return context


def _trusted_by(files: Files) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(files.authority.certificate.read_bytes())


class TestHandshake:
    @both
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_present_versions_are_spoken(self, files: Files, protocol: str, version: ssl.TLSVersion) -> None:
        async with serving(files.tls()) as served:
            assert await gets_in(served, protocol, _only(files.authority.client(), version))

    @both
    async def test_version_1_1_is_refused(self, files: Files, protocol: str) -> None:
        old = _only(files.authority.client(), ssl.TLSVersion.TLSv1_1)
        assert _speaks_1_1(files, old), "this OpenSSL cannot speak it: the test would prove nothing"
        async with serving(files.tls()) as served:
            assert not await gets_in(served, protocol, old)

    @both
    async def test_plain_text_is_not_answered(self, files: Files, protocol: str) -> None:
        async with serving(files.tls()) as served:
            host, _, port = served.at(protocol).rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            try:
                answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
            except ConnectionError:
                pass
            finally:
                writer.close()
            assert b"HTTP" not in answer
            assert b'"ok"' not in answer

    @both
    async def test_a_client_that_trusts_another_authority_does_not_go_on(
        self, files: Files, tmp_path: Path, protocol: str
    ) -> None:
        async with serving(files.tls()) as served:
            assert not await gets_in(served, protocol, Authority(tmp_path, "other").client())

    async def test_calls_are_answered(self, files: Files) -> None:
        async def one(_request: Any) -> Message:
            return ListNullVolumesResponse(null_volumes=[NullVolume(name="nullVolumes/x")])

        async with serving(files.tls(), ListNullVolumes=one) as served:
            code, answer = await call(served.at(GRPC), "ListNullVolumes", credentials=_trusted_by(files))
            assert (code, answer.null_volumes[0].name) == ("OK", "nullVolumes/x")
            async with httpx.AsyncClient(verify=files.authority.client(), timeout=PATIENCE_S) as client:
                over_http = await client.get(f"https://{served.at(HTTP)}/v1/nullVolumes")
            assert over_http.json()["nullVolumes"][0]["name"] == "nullVolumes/x"


def _speaks_1_1(files: Files, client: ssl.SSLContext) -> bool:
    """Whether that client gets through to a server that lets it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    _only(server, ssl.TLSVersion.TLSv1_1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    there = server.wrap_bio(outgoing, incoming, server_side=True)
    for _ in range(5):
        for end in (here, there):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return here.version() == "TLSv1.1"


class TestClientCertificates:
    @both
    async def test_one_of_the_authority_gets_in(self, files: Files, protocol: str) -> None:
        async with serving(files.tls(mutual=True)) as served:
            assert await gets_in(served, protocol, files.authority.client(files.authority.issue("me")))

    @both
    async def test_none_does_not(self, files: Files, protocol: str) -> None:
        async with serving(files.tls(mutual=True)) as served:
            assert not await gets_in(served, protocol, files.authority.client())

    @both
    async def test_one_of_another_authority_does_not(self, files: Files, tmp_path: Path, protocol: str) -> None:
        foreign = Authority(tmp_path, "other").issue("me")
        async with serving(files.tls(mutual=True)) as served:
            assert not await gets_in(served, protocol, files.authority.client(foreign))

    @both
    async def test_an_expired_one_does_not(self, files: Files, protocol: str) -> None:
        expired = files.authority.issue("me", good_for=_EXPIRED)
        async with serving(files.tls(mutual=True)) as served:
            assert not await gets_in(served, protocol, files.authority.client(expired))

    @pytest.mark.parametrize(
        ("brings", "why"),
        [
            ("none", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
            ("expired", "certificate has expired"),
            ("another authority's", "unable to get local issuer certificate"),
        ],
    )
    async def test_why_one_does_not_is_told(
        self, files: Files, tmp_path: Path, brings: str, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        own = {
            "none": None,
            "expired": files.authority.issue("me", good_for=_EXPIRED),
            "another authority's": Authority(tmp_path, "other").issue("me"),
        }[brings]
        async with serving(files.tls(mutual=True)) as served:
            assert not await gets_in(served, HTTP, files.authority.client(own))
        assert f"a client was not let in, its TLS handshake failed: {why}" in caplog.messages

    @both
    async def test_one_whose_authority_was_removed_does_not_on_new_connections(
        self, files: Files, tmp_path: Path, protocol: str
    ) -> None:
        other = Authority(tmp_path, "other")
        me, them = files.authority.client(files.authority.issue("me")), files.authority.client(other.issue("them"))
        async with serving(files.tls(mutual=True)) as served:
            assert [await gets_in(served, protocol, who) for who in (me, them)] == [True, False]
            shutil.copy(other.certificate, files.client_ca)
            assert [await gets_in(served, protocol, who) for who in (me, them)] == [False, True]

    @both
    async def test_a_removed_authority_is_removed_for_all_listeners_whichever_is_asked_first(
        self, files: Files, tmp_path: Path, protocol: str
    ) -> None:
        me = files.authority.client(files.authority.issue("me"))
        async with serving(files.tls(mutual=True)) as served:
            assert await gets_in(served, GRPC, me)
            assert await gets_in(served, HTTP, me)
            shutil.copy(Authority(tmp_path, "other").certificate, files.client_ca)
            first, second = (GRPC, HTTP) if protocol == GRPC else (HTTP, GRPC)
            assert not await gets_in(served, first, me)
            assert not await gets_in(served, second, me)

    @both
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_a_session_of_before_does_not_let_a_removed_one_in(
        self, files: Files, tmp_path: Path, protocol: str, version: ssl.TLSVersion
    ) -> None:
        me = files.authority.client(files.authority.issue("me"))
        me.maximum_version = version
        async with serving(files.tls(mutual=True)) as served:
            session, answered, _ = await asyncio.to_thread(_resume, served.at(protocol), protocol, me, None)
            assert answered
            await asyncio.sleep(1.1)  # sessions are dated to the second
            shutil.copy(Authority(tmp_path, "other").certificate, files.client_ca)
            _, answered, _ = await asyncio.to_thread(_resume, served.at(protocol), protocol, me, session)
            assert not answered


def _resume(
    address: str, protocol: str, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool, bool]:
    """The session, whether the server answered, and whether it took the session it was offered."""
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["h2" if protocol == GRPC else "http/1.1"])
    try:
        with (
            socket.create_connection((host, int(port)), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host, session=session) as secure,
        ):
            if protocol == HTTP:
                secure.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answered = bool(secure.recv(100))
            return secure.session, answered, bool(secure.session_reused)
    except (ssl.SSLError, ConnectionError):
        return None, False, False


class TestRenewal:
    @both
    async def test_a_renewed_certificate_is_shown_on_new_connections(self, files: Files, protocol: str) -> None:
        renewed = files.authority.issue("server")
        async with serving(files.tls()) as served:
            assert await serial(served, protocol, files.authority.client()) == files.issued.serial
            renewed.put(files.certificate, files.key)
            assert await serial(served, protocol, files.authority.client()) == renewed.serial

    async def test_every_listener_shows_it(self, files: Files) -> None:
        renewed = files.authority.issue("server")
        async with serving(files.tls(), listen=["127.0.0.1:0"] * 2, http=["127.0.0.1:0"] * 2) as served:
            renewed.put(files.certificate, files.key)
            for protocol in BOTH:
                for address in served.addresses[protocol]:
                    one = replace(served, addresses={protocol: [address]})
                    assert await serial(one, protocol, files.authority.client()) == renewed.serial

    async def test_a_call_in_flight_goes_on(self, files: Files) -> None:
        begun, finish = asyncio.Event(), asyncio.Event()

        async def slow(_request: Any) -> Message:
            begun.set()
            await finish.wait()
            return ListNullVolumesResponse()

        async with serving(files.tls(), ListNullVolumes=slow) as served:
            over_grpc = asyncio.create_task(call(served.at(GRPC), "ListNullVolumes", credentials=_trusted_by(files)))
            await begun.wait()
            begun.clear()
            async with httpx.AsyncClient(verify=files.authority.client(), timeout=PATIENCE_S) as client:
                over_http = asyncio.create_task(client.get(f"https://{served.at(HTTP)}/v1/nullVolumes"))
                await begun.wait()
                renewed = files.authority.issue("server")
                renewed.put(files.certificate, files.key)
                for protocol in BOTH:
                    assert await serial(served, protocol, files.authority.client()) == renewed.serial
                finish.set()
                assert (await over_http).status_code == 200
            assert (await over_grpc)[0] == "OK"

    @both
    @pytest.mark.parametrize("harm", ["nonsense", "other key", "no file", "no key"])
    async def test_bad_files_leave_the_old_ones_in_use_until_good_ones_come(
        self, files: Files, protocol: str, harm: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        harms: dict[str, Callable[[], object]] = {
            "nonsense": lambda: files.certificate.write_text("nonsense"),
            "other key": lambda: shutil.copy(files.authority.issue("server").key, files.key),
            "no file": files.certificate.unlink,
            "no key": files.key.unlink,
        }
        async with serving(files.tls()) as served:
            harms[harm]()
            for _ in range(2):
                assert await serial(served, protocol, files.authority.client()) == files.issued.serial
            told = [record.getMessage() for record in caplog.records if "renewed TLS files" in record.getMessage()]
            assert len(told) == 1, "said once, not at each handshake"
            assert "are not used" in told[0]
            assert str(files.key if "key" in harm else files.certificate) in told[0]
            renewed = files.authority.issue("server")
            renewed.put(files.certificate, files.key)
            assert await serial(served, protocol, files.authority.client()) == renewed.serial


class TestFiles:
    @pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
    def test_a_file_that_is_not_there_is_named(self, files: Files, missing: str) -> None:
        path: Path = getattr(files, missing)
        path.unlink()
        with pytest.raises(errors.FailedPrecondition, match=str(path)):
            files.tls(mutual=True)

    @pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    @pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
    def test_a_file_that_is_none_is_refused(self, files: Files, which: str, text: str) -> None:
        getattr(files, which).write_text(text)
        with pytest.raises(errors.FailedPrecondition, match="do not fit"):
            files.tls(mutual=True)

    def test_a_key_of_another_certificate_is_refused(self, files: Files) -> None:
        with pytest.raises(errors.FailedPrecondition, match="do not fit: KEY_VALUES_MISMATCH"):
            Tls(files.certificate, files.authority.issue("other").key, None)

    def test_one_that_has_expired_is_told(self, files: Files, caplog: pytest.LogCaptureFixture) -> None:
        files.tls()
        assert "expired" not in caplog.text
        files.authority.issue("server", good_for=_EXPIRED).put(files.certificate, files.key)
        files.tls()
        assert re.search(f"the certificate {files.certificate} expired on 20.*: clients will refuse it", caplog.text)

    def test_an_encrypted_key_is_refused_rather_than_asked_about(self, files: Files) -> None:
        locked = files.authority.issue("server", passphrase="open sesame")
        with pytest.raises(errors.FailedPrecondition, match=f"{locked.key} is encrypted"):
            Tls(locked.certificate, locked.key, None)

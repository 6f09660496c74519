from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeSubsystemSpec
from opi_spdk_bridge.telemetry import redact

PSK = "NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
DHCHAP = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
HEX = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize(
    "text",
    [
        f"the key {PSK} is wrong",
        f"psk={PSK}",
        f"'{DHCHAP}'",
        f"host {DHCHAP}, {PSK}",
        f'{{"key":"{HEX}"}}',
        f'{{"key2": "{HEX}"}}',
        f"key: {HEX}",
        f"key={HEX}",
        f"{{'psk': b'{HEX}'}}",
        f'psk: "{HEX}"',
        f'Password = "{HEX}"',
    ],
)
def test_key_material_is_masked_in_any_text(text: str) -> None:
    masked = redact.text(text)
    assert redact.MASK in masked
    for secret in (PSK, DHCHAP, HEX, PSK[20:40], DHCHAP[20:40]):
        assert secret not in masked


@pytest.mark.parametrize(
    "text",
    [
        "nvmeSubsystems/a is in use by nvmeSubsystems/a/nvmeControllers/b",
        "keyring_file_add_key opi-0123456789abcdef0123456789abcdef",
        "spec.psk is a key for one host",
        "the master key /var/lib/opi-spdk-bridge/state.key has mode 0644",
        "page_token is not one that this list gave",
    ],
)
def test_text_without_key_material_stays_as_it_is(text: str) -> None:
    assert redact.text(text) == text


@given(st.binary(min_size=16, max_size=64).filter(lambda secret: len(set(secret)) > 8))
@example(b"0123456789'abcdefghijklmnop")
@example(b'0123456789"abcdefghijklmnop')
@example(b"0123456789\\abcdefghijklmnop")
def test_a_secret_of_any_bytes_is_masked_whole_in_the_text_and_the_repr_of_a_message(secret: bytes) -> None:
    for shown in (str(NvmeSubsystemSpec(psk=secret)).strip(), f"psk={secret!r}", f"{{'psk': {secret!r}}}"):
        masked = redact.text(shown)
        assert masked in (f"psk: {redact.MASK}", f"psk={redact.MASK}", f"{{'psk': {redact.MASK}}}")


def test_secret_parameters_are_masked_at_any_depth_and_the_rest_stays() -> None:
    params = {
        "name": "k",
        "cipher": "AES_XTS",
        "key": HEX,
        "key2": HEX,
        "list": [{"psk": b"bytes"}, ({"dhchap_key": "x"},)],
        "note": f"was {PSK}",
        "key_name": "not secret",
        "number": 5,
    }
    before = json.dumps(params, default=repr)
    assert redact.tree(params) == {
        "name": "k",
        "cipher": "AES_XTS",
        "key": redact.MASK,
        "key2": redact.MASK,
        "list": [{"psk": redact.MASK}, [{"dhchap_key": redact.MASK}]],
        "note": f"was {redact.MASK}",
        "key_name": "not secret",
        "number": 5,
    }
    assert json.dumps(params, default=repr) == before, "the original stays whole"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "key", "psk"]), inner, max_size=3)
        ),
    )
)
def test_no_string_below_a_secret_name_survives(value: object) -> None:
    def strings_below(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [item for name, item in node.items() if name in redact.SECRET_KEYS and isinstance(item, str)]
            return own + [found for item in node.values() for found in strings_below(item)]
        return [found for item in node for found in strings_below(item)] if isinstance(node, list) else []

    assert set(strings_below(redact.tree(value))) <= {redact.MASK}


@pytest.fixture
def logged() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger through the filter, and what it wrote."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(redact.RedactingFilter())
    logger = logging.getLogger("tests.redact")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, written
    logger.removeHandler(handler)
    logger.propagate = True


def test_the_finished_message_of_a_record_is_masked(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = logged
    logger.warning("%s of %d", PSK, 5)
    assert written.getvalue() == f"{redact.MASK} of 5\n"


def test_a_traceback_is_masked(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = logged
    try:
        raise ValueError(f"cannot use {PSK}")
    except ValueError:
        logger.exception("failed")
    assert "Traceback" in written.getvalue()
    assert f"ValueError: cannot use {redact.MASK}" in written.getvalue()
    assert PSK not in written.getvalue()


def test_a_traceback_that_another_handler_has_formatted_is_masked(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = logged
    earlier = logging.StreamHandler(io.StringIO())
    logger.handlers.insert(0, earlier)
    try:
        raise ValueError(PSK)
    except ValueError:
        logger.exception("failed")
    finally:
        logger.removeHandler(earlier)
    assert PSK not in written.getvalue()


def test_a_stack_is_masked(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = logged
    logger.warning("here", stack_info=True)  # NVMeTLSkey-1:01:this-line-is-in-the-stack:
    assert "this-line-is-in-the-stack" not in written.getvalue()


def test_a_record_with_too_few_arguments_does_not_break_the_caller(
    logged: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, _ = logged
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("%s and %s", "one")

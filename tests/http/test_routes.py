"""Path templates and the routes made of the contract's rules."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge.api.routes import Routes, Template
from tests.http.contract import METHODS, method

ROUTES = Routes(METHODS)

_alphanumeric = st.text(string.ascii_letters + string.digits, min_size=1, max_size=1)
_ids = st.builds(
    lambda first, middle, last: first + middle + last,
    _alphanumeric, st.text(string.ascii_letters + string.digits + "._-", max_size=20), _alphanumeric,
)  # fmt: skip
_literals = st.text(string.ascii_letters, min_size=1, max_size=10)
_verbs = st.one_of(st.just(""), _literals)


@given(collections=st.lists(_literals, min_size=1, max_size=4), data=st.data(), verb=_verbs)
def test_a_name_is_got_back_from_the_path_that_it_was_put_into(
    collections: list[str], data: st.DataObject, verb: str
) -> None:
    suffix = f":{verb}" if verb else ""
    template = Template.parse(f"/v1/{{a.name={'/'.join(f'{item}/*' for item in collections)}}}/tail{suffix}")
    name = "/".join(f"{item}/{data.draw(_ids)}" for item in collections)
    assert template.verb == verb
    assert template.match(["v1", *name.split("/"), "tail"]) == {"a.name": name}


@given(resource_id=_ids, verb=_literals)
def test_a_verb_is_never_part_of_an_id(resource_id: str, verb: str) -> None:
    found = ROUTES.find("GET", f"/v1/nvmeSubsystems/{resource_id}:{verb}")
    assert (found[0].method.name if found else None) == ("StatsNvmeSubsystem" if verb == "stats" else None)


@given(text=st.text(max_size=30))
def test_only_ids_that_begin_and_end_with_a_letter_or_digit_have_a_route(text: str) -> None:
    found = ROUTES.find("GET", f"/v1/nullVolumes/{quote(text, safe='')}")
    if found is not None:
        assert found[1] == {"name": f"nullVolumes/{text}"}
        assert text[0].isascii()
        assert text[0].isalnum()
        assert text[-1].isalnum()
    else:
        assert not (text and all(c in string.ascii_letters + string.digits for c in text))


@given(path=st.text(string.printable, max_size=60), http_method=st.sampled_from(["GET", "POST", "PATCH", "DELETE"]))
def test_no_path_breaks_the_search(path: str, http_method: str) -> None:
    ROUTES.find(http_method, path)
    ROUTES.allowed(path)


@pytest.mark.parametrize(
    "text", ["", "v1", "/v1/", "/v1/{name=**}", "/v1/{name", "/v1/a*", "/v1/{}", "/v1/{a=b//c}", "/v1:", "/v1/x:y:z"]
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"template|literal"):
        Template.parse(text)


def test_a_variable_without_a_pattern_is_one_segment() -> None:
    assert Template.parse("/v1/{name}").match(["v1", "x"]) == {"name": "x"}


def test_every_rpc_has_a_route() -> None:
    assert {route.method.name for route in ROUTES} == {item.name for item in METHODS}


def test_no_two_routes_are_the_same() -> None:
    keys = [(route.http_method, route.template.segments, route.template.verb) for route in ROUTES]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/volumes", "ListEncryptedVolumes"),  # the contract has it twice: the first counts
        ("/v1/encryptedVolumes", "ListEncryptedVolumes"),
        ("/v1/qosVolumes", "ListQosVolumes"),
        ("/v1/virtioScsiLuns", "ListVirtioScsiLuns"),
        ("/v1/inventory/1/inventory/2", "GetInventory"),
        ("/v1/nvmeSubsystems/s/nvmeControllers/c:stats", "StatsNvmeController"),
        ("/v1/nvmeRemoteControllers/c/nvmeRemoteNamespaces/1", "GetNvmeRemoteNamespace"),
    ],
)
def test_paths_lead_to_their_rpc(path: str, name: str) -> None:
    found = ROUTES.find("GET", path)
    assert found is not None
    assert found[0].method is method(name)


def test_an_encoded_slash_does_not_separate_segments() -> None:
    assert ROUTES.find("GET", "/v1/nullVolumes%2Fx") is None
    assert ROUTES.find("GET", "/v1/nullVolumes/x%2Fy") is None


def test_the_methods_of_a_path_are_known() -> None:
    assert ROUTES.allowed("/v1/nullVolumes/x") == ["DELETE", "GET", "PATCH"]
    assert ROUTES.allowed("/v1/nothing") == []

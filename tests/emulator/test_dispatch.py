"""Layers over the methods of a target: what each sees of a call, and may answer."""

from typing import Any

import pytest

from opi_spdk_bridge.emulator.dispatch import Handler, Layer, answering, layered
from opi_spdk_bridge.emulator.registry import NVMF_FAILURE, Method, RpcError


def noting(name: str, seen: list[str]) -> Layer:
    def layer(method: str, params: Any, below: Handler) -> Any:
        seen.append(f"{name} {method} {params}")
        return below(method, params)

    return layer


def bottom(name: str, params: Any) -> Any:
    raise RpcError(-1, f"{name} is at the bottom")


def test_a_call_passes_the_layers_from_the_first_to_the_last() -> None:
    seen: list[str] = []
    handle = layered(noting("upper", seen), noting("lower", seen), below=lambda name, params: (name, params))

    assert handle("m", 1) == ("m", 1)
    assert seen == ["upper m 1", "lower m 1"]


def test_what_a_layer_answers_goes_no_further() -> None:
    seen: list[str] = []
    own = Method("own", lambda params: {"given": params}, NVMF_FAILURE)
    handle = layered(answering([own]), noting("lower", seen), below=bottom)

    assert handle("own", [2]) == {"given": [2]}
    assert seen == []
    with pytest.raises(RpcError, match="other is at the bottom"):
        handle("other", None)
    assert seen == ["lower other None"]


def test_a_layer_may_change_a_call_and_its_answer() -> None:
    handle = layered(lambda name, params, below: -below(name, params + 1), below=lambda name, params: params)

    assert handle("m", 1) == -2

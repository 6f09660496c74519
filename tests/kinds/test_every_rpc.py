"""Where each RPC is tested for its effect on the target, or for a true answer from it.

The verbs of a kind are first tested by the contract suite, which looks at the target itself (`Case.seen`). Where what a
verb does there is particular to the kind, the test that looks at that is named, too (`Case.tests`). The Gets of kinds
without a status answer what is stored whatever the target has: that they ask it all the same is tested by
test_api_table.py, which holds every RPC to the calls that it makes.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.kinds.case import Case
from tests.kinds.cases import CASES
from tests.kinds.world import NOUNS, plural
from tests.support.bridge import METHODS

CONTRACT = {  # the verb: the test of it in test_contract.py, which runs for all kinds
    "Create": "test_create_puts_it_on_the_target",
    "Get": "test_get_answers_what_create_answered",
    "List": "test_list_pages_through_everything_by_name",
    "Update": "test_update_of_a_named_field_leaves_the_others",
    "Delete": "test_delete_takes_it_off_the_target",
    "Stats": "test_stats_count_the_io",
}

OWN = {
    # What is no verb of a kind
    "ResetNvmeRemoteController": "test_nvme_remote_controller.test_reset_connects_anew",
    "GetNvmeRemoteNamespace": "test_nvme_remote_controller.test_get_tells_each_namespaces_identities",
    "ListNvmeRemoteNamespaces": "test_nvme_remote_controller.test_list_follows_the_array",
    "GetInventory": "test_inventory.test_processors_and_memory_are_this_machines",
}


def _rpc(verb: str, case: Case) -> str:
    return f"{verb}{plural(case.noun) if verb == 'List' else case.noun}"


def _verbs_of_kinds() -> dict[str, str]:
    return {_rpc(verb, case): f"test_contract.{test}" for case in CASES for verb, test in CONTRACT.items()}


def test_there_is_a_row_for_every_kind() -> None:
    assert sorted(case.noun for case in CASES) == sorted(NOUNS)


def test_each_rpc_is_covered() -> None:
    assert {**_verbs_of_kinds(), **OWN}.keys() == METHODS.keys()


def test_updates_that_the_contract_suite_cannot_see_have_a_test_of_their_own() -> None:
    unseen = [case for case in CASES if case.change is None or case.changed is None]
    assert [case.noun for case in unseen if "Update" not in case.tests] == []


def test_the_tests_that_are_named_exist() -> None:
    own = {test for case in CASES for test in case.tests.values()}
    for place in {*_verbs_of_kinds().values(), *OWN.values(), *own}:
        module, _, test = place.partition(".")
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place

"""Where each of the 88 RPCs is tested for its effect on the target, or for a true answer from it.

The verbs of a kind are first tested by the contract suite, which looks at the target itself (`Case.seen`). Where what a
verb does there is particular to the kind, the test that looks at that is named, too. The Gets of kinds without a status
answer what is stored whatever the target has: that they ask it all the same is tested by test_api_table.py, which holds
every RPC to the calls that it makes.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.kinds.cases import CASES
from tests.kinds.world import plural
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
    # Updates of which the contract suite sees nothing on the target
    "UpdateMallocVolume": "test_volumes.test_a_malloc_volume_keeps_its_data_whatever_is_asked",
    "UpdateNvmeController": "test_nvme_controller.test_what_the_target_cannot_honour_is_kept_and_can_be_updated",
    "UpdateNvmePath": "test_nvme_path.test_a_path_moves_under_a_volume_in_use",
    "UpdateNvmeRemoteController": (
        "test_nvme_remote_controller.test_with_its_key_it_gets_into_an_array_that_demands_tls"
    ),
    "UpdateVirtioScsiController": "test_virtio_scsi.test_a_controller_takes_a_pci_function_any_a_target_none",
    "UpdateVirtioScsiLun": "test_virtio_scsi.test_a_lun_moves_to_another_device",
    "UpdateVirtioScsiTarget": "test_virtio_scsi.test_max_luns_can_be_raised_and_is_lowered_only_over_free_numbers",
    # A controller without paths has only its key on the target
    "CreateNvmeRemoteController": (
        "test_nvme_remote_controller.test_with_its_key_it_gets_into_an_array_that_demands_tls"
    ),
    "DeleteNvmeRemoteController": "test_nvme_remote_controller.test_it_is_not_deleted_under_its_paths",
    # Answers that tell what the target has now
    "GetAioVolume": "test_aio_volume.test_get_tells_the_size_that_the_target_has_now",
    "GetNvmeController": "test_nvme_controller.test_active_is_whether_the_target_listens",
    "GetNvmeNamespace": "test_nvme_namespace.test_a_volume_that_was_removed_shows_offline",
    "GetNvmeSubsystem": "test_nvme_subsystem.test_the_firmware_revision_is_the_targets_version",
    # What is no verb of a kind
    "ResetNvmeRemoteController": "test_nvme_remote_controller.test_reset_connects_anew",
    "GetNvmeRemoteNamespace": "test_nvme_remote_controller.test_get_tells_each_namespaces_identities",
    "ListNvmeRemoteNamespaces": "test_nvme_remote_controller.test_list_follows_the_array",
    "GetInventory": "test_inventory.test_processors_and_memory_are_this_machines",
}


def _verbs_of_kinds() -> dict[str, str]:
    return {
        f"{verb}{plural(case.noun) if verb == 'List' else case.noun}": f"test_contract.{test}"
        for case in CASES
        for verb, test in CONTRACT.items()
    }


def test_each_of_the_88_rpcs_is_covered() -> None:
    assert len(METHODS) == 88
    assert {**_verbs_of_kinds(), **OWN}.keys() == METHODS.keys()


def test_updates_that_the_contract_suite_cannot_see_have_a_test_of_their_own() -> None:
    unseen = {f"Update{case.noun}" for case in CASES if case.change is None or case.changed is None}
    assert unseen <= OWN.keys()


def test_the_tests_that_are_named_exist() -> None:
    for place in {*_verbs_of_kinds().values(), *OWN.values()}:
        module, _, test = place.partition(".")
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place

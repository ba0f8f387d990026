"""Which tests wait for `make test-all`: those that repeat, in more variants, a rule of which `make test` keeps one.

`make test` is run before every push and has to end within minutes. A rule never waits as a whole.
"""

import re
from collections.abc import Sequence

import hypothesis
import pytest

# The profile of hypothesis that `make test` names.
FEW_EXAMPLES = "few"
# Patterns of this module that no collected test has.
UNMATCHED = pytest.StashKey[set[str]]()

# File, "::", test with its parameters; * is any text.

# Variants of a fixture, by its name and parameter, that `make test` runs for these tests only.
VARIANTS = {
    # What they hold is written, planned, locked or stored differently by the two databases.
    ("empty_database_url", "postgres"): {
        "test_adapters.py::*",
        "test_backup.py::*",
        "test_claims.py::*",
        "test_claims_fairly.py::*",
        "test_continuing.py::test_an_origin_is_not_deleted_while_*",
        "test_damaged_rows.py::*",
        "test_database_time.py::*",
        "test_temporary_jobs.py::test_two_that_end_the_same_*",
        "test_feedback.py::*",
        "test_files_in_use.py::*",
        "test_idempotency.py::*",
        "test_installation.py::*",
        "test_job_metrics.py::*",
        "test_jobs_api.py::*",
        "test_limits.py::*",
        "test_outbox.py::*",
        "test_listings.py::*",
        "test_metrics_of_jobs.py::*",
        "test_pausing.py::test_a_request_is_fulfilled_though_the_job_is_given_back_*",
        "test_query_plans.py::*",
        "test_readiness.py::*",
        "test_retention.py::*",
        "test_stream.py::*",
        "test_takeover.py::test_a_database_*",
        "test_takeover.py::test_a_dead_worker_*",
        "test_takeover.py::test_a_worker_*",
        "test_takeover.py::test_events_*",
        "test_thinned_metrics.py::test_steps_that_a_later_*",
    },
    ("unfilled_url", "postgres"): {"test_upgrading.py::test_a_*", "test_upgrading.py::test_every_*"},
    # Of the dumps of one schema, what differs is the spec, which is the same on both databases.
    ("dump", "0007-spec-1"): {
        "test_upgrading.py::test_every_job_*[sqlite-*",
        "test_upgrading.py::test_a_spec_of_before_*[sqlite-*",
    },
    # Both engines hold one contract; in the other files it is held by the one that batches.
    ("make_engine", "serial"): {"test_engine_answers.py::*"},
}

# Tests that `make test` leaves out, each with what holds its rule there.
SLOW: dict[str, str] = {
    # The whole service. One story on each stack stays, with a worker that is killed.
    "test_canaries.py::*": "unit/secrets, supervising/test_job_secrets, web/test_project_secrets, webhooks/test_outbox",
    "test_dataset_cases.py::*": "unit/test_files_*, test_preparing, test_masks_of_public_templates",
    "test_environments.py::test_every_kind_of_process_was_seen": "unit/test_environments holds what each process gets",
    "test_environments.py::test_a_process_has_what_it_needs_and_nothing_else[*": "as above",
    "test_jobs.py::test_a_job_that_trains_biases_*": "engine/test_variants and engine/test_proving hold biases",
    "test_jobs.py::test_a_pulled_adapter_*[services]": "the same on the embedded stack",
    "test_jobs.py::test_what_was_done_otherwise_*": "test_training_settings and unit/test_no_effect hold notices",
    "test_jobs.py::test_evaluation_rows_are_evaluated": "test_resume holds evaluations, test_preparing the split",
    "test_jobs.py::test_all_weights_can_be_trained_*": "test_resume and engine/test_variants hold all weights",
    "test_jobs.py::test_raw_text_is_trained_*": "test_training_settings, test_control_tokens_*",
    "test_readme.py::test_every_command_of_the_readme_*": "unit/test_readme holds every body",
    "test_resuming.py::test_a_job_whose_worker_is_killed_*[services]": "the same on the embedded stack; test_takeover",
    "test_resuming.py::test_a_job_that_is_killed_three_times_*": "a worker that is killed once; test_resume",
    "test_resuming.py::test_a_paused_job_*": "test_pausing holds the states, test_resume the steps",
    "test_resuming.py::test_a_worker_that_is_stopped_*": "test_takeover and test_resume",
    "test_resuming.py::test_a_checkpoint_that_is_asked_for_*": "test_continuing and test_resume",
    "test_resuming.py::test_a_job_answers_with_its_newest_*": "test_checkpoint_names, test_engine_checkpoints",
    "test_resuming.py::test_an_adapter_can_be_gone_on_from": "test_resume begins a job with an adapter",
    "test_resuming.py::test_everything_killed_at_once_comes_back": "test_up kills the service, test_resuming a worker",
    "test_two_hosts.py::test_a_job_goes_on_where_*": "supervising/test_two_hosts, with a stand-in for the trainer",
    "test_spare.py::test_equal_jobs_start_at_once_*": "supervising/test_spare holds a spare that trains, and dies",
    "test_kept_kernels.py::*": "unit/test_compile_cache holds where libraries keep what they compile",
    "test_sharing.py::test_the_engine_makes_room_*": "integration/test_sharing and engine/test_yielding",
    "test_sharing.py::test_the_engine_comes_back_*": "as above",
    "test_up.py::test_nothing_is_left_running_*[2]": "by SIGKILL in its place",
    "test_up.py::test_nothing_is_left_running_*[15]": "so ends every stack of these tests",
    "test_up_vllm.py::*": "engine/test_vllm_managed and engine/test_vllm_process",
    # What a backup does with files is the same on PostgreSQL.
    "test_backup.py::test_a_backup_that_is_not_whole_*[postgres-home*": "the same on SQLite",
    "test_backup.py::test_a_manifest_*[postgres*": "the same on SQLite",
    "test_backup.py::test_a_backup_is_made_beside_*[postgres]": "the same on SQLite",
    "test_backup.py::test_a_backup_without_room_*[postgres]": "the same on SQLite",
    "test_backup.py::test_models_are_copied_*[postgres]": "the same on SQLite",
    "test_backup.py::test_what_is_scratch_*[postgres]": "the same on SQLite",
    "test_damaged_rows.py::test_no_question_and_no_wish_*[postgres]": "the same on SQLite, and rows are shown on both",
    # The engine.
    "test_packs.py::test_packs_and_kernels_*[all]": "two of its kernels, and test_batching with plain torch",
    "test_vllm_contract.py::test_another_adapter_*[recorded-swapped]": "engine/test_proving; scrambled",
    "test_vllm_contract.py::test_another_adapter_*[recorded-one layer zeroed]": "engine/test_proving; zeroed",
    "test_vllm_contract.py::test_another_adapter_*[recorded-rank-stabilised]": "engine/test_proving; scrambled",
    "test_vllm_contract.py::test_another_adapter_*[recorded-another alpha]": "engine/test_proving; scrambled",
    # Checks on the hub, each of which imports everything anew.
    "test_checking.py::test_splits_of_the_hub_*[all-4]": "train+test",
    "test_checking.py::test_splits_of_the_hub_*[test-1]": "the other splits",
    "test_checking.py::test_a_hub_dataset_that_cannot_be_read_*[source2-*": "source1",
    "test_checking.py::test_a_hub_dataset_that_cannot_be_read_*[source3-*": "source1",
    "test_checking.py::test_a_hub_dataset_that_cannot_be_read_*[source5-*": "source1",
    "test_hostile_hub.py::*[data_files-../*": "the victim by its whole path",
    "test_hostile_models.py::test_a_repository_is_refused_by_its_list_of_files[files1-*": "files0",
    "test_hostile_models.py::test_a_repository_is_refused_by_its_list_of_files[files4-*": "files3",
    # Trainings.
    "test_proving.py::test_each_way_to_train_*[rank-stabilised-*": "engine/test_proving",
    "test_proving.py::test_each_way_to_train_*[embeddings-*": "engine/test_merging",
    "test_proving.py::test_each_way_to_train_*[magnitudes-*": "engine/test_merging",
    "test_proving.py::test_each_way_to_train_*[all weights-*": "engine/test_proving holds a whole model",
    "test_resume.py::test_stopped_and_killed_at_random_steps_*[plain]": "inside-windows has all that plain has",
    "test_resume.py::test_stopped_and_killed_at_random_steps_*[all-weights]": "as above",
}


def examples(number: int) -> int:
    """How many examples a property is tried on: a third of the number where few are asked for."""
    return number // 3 if hypothesis.settings.get_current_profile_name() == FEW_EXAMPLES else number


def mark_slow(items: Sequence[pytest.Item]) -> set[str]:
    """Mark the tests that `make test` leaves out; return the patterns that no test matches."""
    patterns = Patterns({*SLOW}.union(*VARIANTS.values()))
    for item in items:
        found = patterns.matching(item)
        chosen = getattr(item, "callspec", None)
        is_left_out = chosen is not None and any(
            chosen.params.get(fixture) == variant and not found & kept for (fixture, variant), kept in VARIANTS.items()
        )
        if is_left_out or not found.isdisjoint(SLOW):
            item.add_marker(pytest.mark.slow)
    return patterns.unmatched


class Patterns:
    """Patterns of this module, and which of them no test has matched so far."""

    def __init__(self, patterns: set[str]) -> None:
        self.unmatched = set(patterns)
        self._compiled = {pattern: re.compile(re.escape(pattern).replace(r"\*", ".*")) for pattern in patterns}

    def matching(self, item: pytest.Item) -> set[str]:
        name = "::".join((item.path.name, item.nodeid.partition("::")[2]))
        found = {pattern for pattern, compiled in self._compiled.items() if compiled.fullmatch(name)}
        self.unmatched -= found
        return found

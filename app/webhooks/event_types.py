"""The events that a webhook can tell. Where OpenAI has a name for one, it is the same."""

from enum import StrEnum


class EventType(StrEnum):
    TRAINING_STARTED = "fine_tuning.job.started"
    TRAINING_PAUSED = "fine_tuning.job.paused"
    TRAINING_SUCCEEDED = "fine_tuning.job.succeeded"
    TRAINING_FAILED = "fine_tuning.job.failed"
    TRAINING_CANCELLED = "fine_tuning.job.cancelled"
    # The same of jobs of other kinds.
    JOB_STARTED = "job.started"
    JOB_PAUSED = "job.paused"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    ADAPTER_PUBLISHED = "adapter.published"
    # Sent on request alone, whatever the endpoint has chosen.
    TEST = "webhook.test"

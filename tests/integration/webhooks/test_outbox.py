"""From a job's change to the receiver: nothing is lost, and nothing is told that was rolled back."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from app.config import Settings
from app.database.connection import Database, utc_now
from app.jobs.queue.claims import claim, finish
from app.jobs.states import JobStatus, Stage
from app.public_addresses import read_networks
from app.scope import EVERY_PROJECT
from app.webhooks import repository
from app.webhooks.delivering import LEASE, claim_due, deliver, forget_old
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.retries import MOST_ATTEMPTS
from app.webhooks.sending import DeliveryOutcome, WebhookSender
from tests.support.jobs import add_job, read, taken
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import HANG, Receiver, receiving
from tests.support.workers import a_context
from worker.supervising.webhooks import WebhookThread

KEY = base64.b64encode(b"k" * 32).decode()
FAILED = {"category": "user_error", "code": "bad", "message": "the row says canary-row", "hint": None}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": KEY, "webhook_private_networks": "127.0.0.0/8"})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def endpoint(api: TestClient, receiver: Receiver) -> dict[str, Any]:
    made: dict[str, Any] = api.post("/webhooks", json={"url": receiver.url + "/hook"}).json()
    return made


def add_endpoint(api: TestClient, receiver: Receiver, **values: Any) -> str:
    return str(api.post("/webhooks", json={"url": receiver.url, **values}).json()["id"])


def send_due(database: Database, settings: Settings, now: datetime) -> list[DeliveryOutcome]:
    """What the thread of a checker does, without threads."""
    sender = WebhookSender(read_networks("127.0.0.0/8"))
    due = claim_due(database, settings, now, busy=(), of_one=20, limit=20)
    return [deliver(database, each, sender.send, lambda: now) for each in due]


def stored(database: Database) -> list[WebhookDelivery]:
    with database.reader() as session:
        return list(session.query(WebhookDelivery).order_by(WebhookDelivery.created_at, WebhookDelivery.id))


def end(database: Database, job_id: str, target: JobStatus, **values: Any) -> None:
    held = taken(database)
    assert held.job_id == job_id
    with database.writer() as session:
        finish(session, held, target, utc_now(), outcome="x", reason=None, **values)
        session.commit()


def types(receiver: Receiver) -> list[str]:
    return [json.loads(got.body)["type"] for got in receiver.received]


def test_a_training_is_told_from_its_start_to_its_end(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    job_id = add_job(database)
    end(database, job_id, JobStatus.FAILED, error=FAILED)

    outcomes = send_due(database, settings, utc_now())

    assert outcomes == [DeliveryOutcome(204, None)] * 2
    assert types(receiver) == ["fine_tuning.job.started", "fine_tuning.job.failed"]
    got = receiver.received[1]
    event = OpenAI(api_key="x").webhooks.unwrap(got.body, got.headers, secret=endpoint["signing_secret"])
    assert event.type == "fine_tuning.job.failed"
    told = json.loads(got.body)["data"]
    assert told == {
        "id": job_id,
        "kind": "train",
        "project": "default",
        "status": "failed",
        "adapter_id": None,
        "error": {"category": "user_error", "code": "bad"},
    }
    shown = api.get(f"/webhooks/{endpoint['id']}/deliveries").json()["data"]
    assert {each["status"] for each in shown} == {"delivered"}
    assert {got.headers["webhook-id"] for got in receiver.received} == {each["id"] for each in shown}


def test_what_the_user_ends_is_told_and_only_to_those_that_listen(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver
) -> None:
    chosen = add_endpoint(api, receiver, event_types=["fine_tuning.job.cancelled"])
    add_endpoint(api, receiver, event_types=["fine_tuning.job.succeeded"])
    add_endpoint(api, receiver, project="other")
    job_id = add_job(database)

    api.post(f"/jobs/{job_id}/pause")
    api.post(f"/jobs/{job_id}/cancel")
    api.post(f"/jobs/{job_id}/cancel")
    send_due(database, settings, utc_now())

    assert types(receiver) == ["fine_tuning.job.cancelled"]
    assert [each.endpoint_id for each in stored(database)] == [chosen]


def test_nothing_is_told_of_what_was_rolled_back(database: Database, settings: Settings, endpoint: Any) -> None:
    add_job(database)
    with database.writer() as session:
        assert claim(session, Stage.TRAIN, "w", "slot", utc_now()) is not None
        session.flush()
        session.rollback()

    assert stored(database) == []


def test_a_temporary_job_is_told_to_nobody(api: TestClient, database: Database, endpoint: Any) -> None:
    add_job(database, kind="validate", is_temporary=True, status=JobStatus.VALIDATING)

    held = taken(database, stage=Stage.CHECK)
    with database.writer() as session:
        finish(session, held, JobStatus.FAILED, utc_now(), outcome="x", reason=None, error=FAILED)
        session.commit()

    assert stored(database) == []


def test_a_receiver_that_fails_is_asked_again_later_until_it_takes_the_message(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers = [500, 429, 302]
    api.post(f"/webhooks/{endpoint['id']}/test")
    now, pauses = utc_now(), []

    for attempts in range(1, 4):
        [outcome] = send_due(database, settings, now)
        [delivery] = stored(database)
        assert (delivery.attempts, delivery.last_status, outcome.error) == (
            attempts,
            outcome.status,
            delivery.last_error,
        )
        assert delivery.next_attempt_at is not None
        assert send_due(database, settings, delivery.next_attempt_at - timedelta(seconds=1)) == []
        pauses.append((delivery.next_attempt_at - now).total_seconds())
        now = delivery.next_attempt_at
    failing = api.get(f"/webhooks/{endpoint['id']}").json()
    send_due(database, settings, now)

    assert [round(pause / wanted, 1) for pause, wanted in zip(pauses, (5, 15, 45), strict=True)] == pytest.approx(
        [1, 1, 1], abs=0.21
    )
    assert (failing["last_status"], failing["failing_since"] is not None) == (302, True)
    well = api.get(f"/webhooks/{endpoint['id']}").json()
    assert (well["last_status"], well["last_error"], well["failing_since"]) == (204, None, None)
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    assert len({got.body for got in receiver.received}) == 1


def test_a_process_that_is_killed_before_it_stores_the_answer_is_made_up_for_with_the_same_id(
    api: TestClient,
    database: Database,
    settings: Settings,
    receiver: Receiver,
    endpoint: dict[str, Any],
    database_url: str,
) -> None:
    receiver.answers = [HANG]
    api.post(f"/webhooks/{endpoint['id']}/test")
    with subprocess.Popen([sys.executable, "-m", "tests.support.killed_sender", database_url, KEY]) as sender:
        wait_for("it is sent", lambda: receiver.received)
        sender.kill()

    [begun] = stored(database)
    assert begun.next_attempt_at is not None
    early = send_due(database, settings, begun.next_attempt_at - timedelta(seconds=1))
    late = send_due(database, settings, begun.next_attempt_at)

    assert (early, late) == ([], [DeliveryOutcome(204, None)])
    first, second = receiver.received
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert begun.last_status is None


def test_an_attempt_whose_lease_has_ended_stores_nothing(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    api.post(f"/webhooks/{endpoint['id']}/test")
    now = utc_now()
    [slow] = claim_due(database, settings, now, busy=(), of_one=1, limit=1)
    send_due(database, settings, now + LEASE)

    deliver(database, slow, lambda _: DeliveryOutcome(500, "it answered 500"))

    [delivery] = stored(database)
    assert (delivery.attempts, delivery.last_status, delivery.last_error) == (2, 204, None)
    assert delivery.delivered_at is not None


def test_two_processes_share_the_work(api: TestClient, database: Database, settings: Settings, endpoint: Any) -> None:
    for _ in range(6):
        api.post(f"/webhooks/{endpoint['id']}/test")
    with database.reader() as session:
        seen = repository.due(session, EVERY_PROJECT, utc_now(), busy=(), of_one=9, limit=9)
    with database.writer() as session:
        taken_by_one = [repository.claim(session, EVERY_PROJECT, each, utc_now(), LEASE) for each in seen[:3]]
        session.commit()

    taken_by_other = claim_due(database, settings, utc_now(), busy=(), of_one=9, limit=9)

    assert len(seen) == 6
    assert all(taken_by_one)
    assert {each.id for each in taken_by_other} == set(seen[3:])


def test_one_endpoint_with_many_messages_delays_no_other(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    for _ in range(10):
        api.post(f"/webhooks/{endpoint['id']}/test")
    other = add_endpoint(api, receiver)
    api.post(f"/webhooks/{other}/test")

    with database.reader() as session:
        due = repository.due(session, EVERY_PROJECT, utc_now(), busy=(), of_one=4, limit=9)
        others = repository.due(session, EVERY_PROJECT, utc_now(), busy=[endpoint["id"]], of_one=4, limit=9)

    assert (len(due), len(others)) == (5, 1)
    assert set(others) < set(due)


def test_after_the_last_attempt_a_message_is_given_up_and_can_be_sent_again(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers = [503] * MOST_ATTEMPTS
    made = api.post(f"/webhooks/{endpoint['id']}/test").json()
    now = utc_now()
    for _ in range(MOST_ATTEMPTS):
        send_due(database, settings, now)
        [delivery] = stored(database)
        now = delivery.next_attempt_at or now

    shown = api.get(f"/webhooks/{endpoint['id']}/deliveries").json()["data"][0]
    again = api.post(f"/webhooks/{endpoint['id']}/deliveries/{made['id']}/redeliver").json()
    send_due(database, settings, utc_now())

    assert (shown["status"], shown["attempts"]) == ("given_up", MOST_ATTEMPTS)
    assert (again["status"], again["id"], again["attempts"]) == ("waiting", made["id"], 0)
    assert {got.headers["webhook-id"] for got in receiver.received} == {made["id"]}
    assert stored(database)[0].delivered_at is not None


def test_an_endpoint_that_fails_for_days_is_disabled_and_what_waits_is_given_up(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers = [500]
    failing, waiting = (api.post(f"/webhooks/{endpoint['id']}/test").json()["id"] for _ in range(2))
    with database.writer() as session:
        session.get_one(WebhookEndpoint, endpoint["id"]).failing_since = utc_now() - timedelta(days=4)
        session.get_one(WebhookDelivery, failing).attempts = MOST_ATTEMPTS - 1
        session.get_one(WebhookDelivery, waiting).next_attempt_at = utc_now() + timedelta(hours=1)
        session.commit()

    send_due(database, settings, utc_now())
    add_job(database)
    taken(database)

    shown = api.get(f"/webhooks/{endpoint['id']}").json()
    assert (shown["disabled_reason"], shown["disabled_at"] is not None) == ("failing", True)
    assert [each.next_attempt_at for each in stored(database)] == [None, None]
    assert api.post(f"/webhooks/{endpoint['id']}/test").json()["error"]["code"] == "webhook_is_disabled"
    enabled = api.patch(f"/webhooks/{endpoint['id']}", json={"disabled": False}).json()
    assert (enabled["disabled_at"], enabled["failing_since"]) == (None, None)
    assert api.post(f"/webhooks/{endpoint['id']}/test").status_code == 202


def test_an_endpoint_that_says_it_is_gone_is_disabled(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers = [410]
    api.post(f"/webhooks/{endpoint['id']}/test")

    send_due(database, settings, utc_now())

    assert api.get(f"/webhooks/{endpoint['id']}").json()["disabled_reason"] == "gone"
    assert stored(database)[0].next_attempt_at is None


def test_without_the_right_key_nothing_is_sent_and_the_reason_is_shown(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    api.post(f"/webhooks/{endpoint['id']}/test")
    other = settings.model_copy(update={"secret_key": base64.b64encode(b"o" * 32).decode()})

    [outcome] = send_due(database, other, utc_now())

    assert outcome == DeliveryOutcome(None, "its secret cannot be read (wrong_secret_key)")
    assert receiver.connections == 0


def test_a_deleted_endpoint_takes_its_messages_with_it(
    api: TestClient, database: Database, settings: Settings, endpoint: dict[str, Any]
) -> None:
    api.post(f"/webhooks/{endpoint['id']}/test")
    claimed = claim_due(database, settings, utc_now(), busy=(), of_one=1, limit=1)

    api.delete(f"/webhooks/{endpoint['id']}")
    deliver(database, claimed[0], lambda _: DeliveryOutcome(204, None))

    assert stored(database) == []


def test_old_messages_are_removed_unless_they_wait(
    api: TestClient, database: Database, endpoint: dict[str, Any]
) -> None:
    made = [api.post(f"/webhooks/{endpoint['id']}/test").json()["id"] for _ in range(3)]
    with database.writer() as session:
        for delivery_id in made[:2]:
            session.get_one(WebhookDelivery, delivery_id).created_at = utc_now() - timedelta(days=8)
        session.get_one(WebhookDelivery, made[0]).next_attempt_at = None
        session.commit()

    assert (forget_old(database, utc_now()), forget_old(database, utc_now())) == (1, 0)
    assert {each.id for each in stored(database)} == set(made[1:])


def test_the_thread_of_a_checker_sends_what_is_due(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    context = a_context(settings.model_copy(update={"reconcile_seconds": 0.05}), database)
    thread = threading.Thread(target=WebhookThread(context).run)
    thread.start()
    for _ in range(9):
        api.post(f"/webhooks/{endpoint['id']}/test")
    try:
        wait_for("all are sent", lambda: len(receiver.received) == 9)
        wait_for("and stored", lambda: all(each.delivered_at for each in stored(database)))
    finally:
        context.stopping.set()
        thread.join()

    assert len({got.headers["webhook-id"] for got in receiver.received}) == 9


def test_the_secret_is_in_no_row_and_in_no_later_answer(
    api: TestClient, database: Database, endpoint: dict[str, Any]
) -> None:
    secret = endpoint["signing_secret"]
    with database.reader() as session:
        row = session.get_one(WebhookEndpoint, endpoint["id"])
    paths = ("/webhooks", f"/webhooks/{endpoint['id']}", f"/webhooks/{endpoint['id']}/deliveries")

    assert secret.removeprefix("whsec_") not in str(vars(row))
    assert not any(secret in api.get(path).text for path in paths)


def test_a_rotated_secret_signs_and_the_one_before_if_it_is_kept(
    api: TestClient, database: Database, settings: Settings, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    path, secrets = f"/webhooks/{endpoint['id']}", [endpoint["signing_secret"]]
    for keep in (True, False):
        body = {"keep_old_secret_active_for_24_hours": keep}
        secrets.append(api.post(f"{path}/rotate_secret", json=body).json()["signing_secret"])
        api.post(f"{path}/test")
        send_due(database, settings, utc_now())

    kept, alone = receiver.received
    client = OpenAI(api_key="x")
    for secret in secrets[:2]:
        client.webhooks.verify_signature(kept.body, kept.headers, secret=secret)
    client.webhooks.verify_signature(alone.body, alone.headers, secret=secrets[2])
    assert len(alone.headers["webhook-signature"].split()) == 1


def test_a_job_ends_while_an_endpoint_is_deleted(api: TestClient, database: Database, endpoint: Any) -> None:
    """On PostgreSQL a message for an endpoint that is gone would break a foreign key, and the job's transaction."""
    job_id = add_job(database)
    ending = threading.Thread(target=end, args=(database, job_id, JobStatus.SUCCEEDED))
    with database.writer() as session:
        assert repository.remove(session, EVERY_PROJECT, endpoint["id"])
        ending.start()
        ending.join(0.3)
        assert ending.is_alive(), "it waits for this transaction"
        session.commit()
    ending.join()

    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert stored(database) == []

"""One message on its way to a real receiver: what it carries, and where it does not go."""

import datetime
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from app.public_addresses import read_networks
from app.webhooks.event_types import EventType
from app.webhooks.outbox import event_of
from app.webhooks.sending import DeliveryOutcome, WebhookMessage, WebhookSender
from app.webhooks.service import new_secret
from tests.support.webhook_receiver import DRIP, HANG, Receiver, receiving

LOOPBACK = read_networks("127.0.0.0/8")
NAME = "hooks.example"
SECRET, OTHER = new_secret(), new_secret()


def a_message(url: str, *secrets: str) -> WebhookMessage:
    event = event_of(EventType.TRAINING_SUCCEEDED, {"id": "job-x"}, datetime.datetime.now(datetime.UTC))
    return WebhookMessage("msg-1", url, secrets or (SECRET,), event)


class ChangingResolver:
    """A name server that gives one answer after the other, as one that rebinds a name does."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._answers.pop(0)


def test_a_message_is_verified_by_openais_sdk_and_by_that_of_the_scheme() -> None:
    with receiving() as receiver:
        outcome = WebhookSender(LOOPBACK).send(a_message(receiver.url + "/hook?key=value"))

    [got] = receiver.received
    event = OpenAI(api_key="x").webhooks.unwrap(got.body, got.headers, secret=SECRET)
    assert (outcome, got.path) == (DeliveryOutcome(204, None), "/hook?key=value")
    assert event.type == "fine_tuning.job.succeeded"
    assert event.data.id == "job-x"
    assert Webhook(SECRET).verify(got.body, got.headers)["id"] == event.id
    assert (got.headers["host"], got.headers["webhook-id"]) == (f"127.0.0.1:{receiver.port}", "msg-1")


def test_another_secret_verifies_nothing_and_while_one_is_replaced_both_do() -> None:
    with receiving() as receiver:
        sender = WebhookSender(LOOPBACK)
        sender.send(a_message(receiver.url))
        sender.send(a_message(receiver.url, OTHER, SECRET))

    by_one, by_both = receiver.received
    with pytest.raises(InvalidWebhookSignatureError):
        OpenAI(api_key="x").webhooks.unwrap(by_one.body, by_one.headers, secret=OTHER)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(by_one.body, by_one.headers)
    for secret in (SECRET, OTHER):
        assert OpenAI(api_key="x").webhooks.unwrap(by_both.body, by_both.headers, secret=secret)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    with receiving() as receiver:
        receiver.answers = [status]
        outcome = WebhookSender(LOOPBACK).send(a_message(receiver.url))

    assert (outcome.status, len(receiver.received)) == (status, 1)
    assert "redirects are not followed" in str(outcome.error)


@pytest.mark.parametrize("answer", [HANG, DRIP])
def test_a_receiver_that_does_not_answer_in_time_is_left(answer: int) -> None:
    with receiving() as receiver:
        receiver.answers = [answer]
        began = time.monotonic()
        outcome = WebhookSender(LOOPBACK, seconds=0.5).send(a_message(receiver.url))

    assert time.monotonic() - began < 5
    assert outcome == DeliveryOutcome(None, "no answer within 0.5 seconds")


def test_nobody_at_the_port_is_a_failure() -> None:
    with receiving() as receiver:
        pass

    outcome = WebhookSender(LOOPBACK).send(a_message(receiver.url))

    assert outcome.status is None
    assert str(outcome.error).startswith("no answer: ConnectionRefusedError")


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["fe80::1%lo"], ["::ffff:127.0.0.1"]),
        *(["64:ff9b::7f00:1"], ["1.1.1.1", "127.0.0.1"], ["2606:4700:4700::1111", "fd00::1"]),
    ],
)
def test_a_name_with_an_inner_address_is_not_called(addresses: list[str]) -> None:
    with receiving() as receiver:
        sender = WebhookSender([], resolve=ChangingResolver(addresses))
        outcome = sender.send(a_message(f"https://{NAME}:{receiver.port}"))

    assert outcome.status is None
    assert "outside of the public internet" in str(outcome.error)
    assert receiver.connections == 0


def test_http_to_the_internet_is_refused_also_where_private_networks_are_allowed() -> None:
    outcome = WebhookSender(LOOPBACK, resolve=ChangingResolver(["1.1.1.1"])).send(a_message(f"http://{NAME}"))

    assert outcome == DeliveryOutcome(None, "http is for networks of TUNESMITH_WEBHOOK_PRIVATE_NETWORKS")


def test_a_name_that_changes_its_address_is_resolved_once_and_connected_to_the_checked_one() -> None:
    """The second answer of the name server would be the address that rebinding aims at."""
    resolver = ChangingResolver(["127.0.0.1"], ["127.0.0.2"])
    with receiving() as receiver:
        sender = WebhookSender(read_networks("127.0.0.1"), resolve=resolver)
        first = sender.send(a_message(f"http://{NAME}:{receiver.port}"))
        second = sender.send(a_message(f"http://{NAME}:{receiver.port}"))

    assert (first.status, second.status, resolver.asked) == (204, None, 2)
    assert [got.headers["host"] for got in receiver.received] == [f"{NAME}:{receiver.port}"]
    assert receiver.connections == 1


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "localhost"])
def test_another_spelling_of_loopback_is_not_called(host: str) -> None:
    with receiving() as receiver:
        outcome = WebhookSender([]).send(a_message(f"https://{host}:{receiver.port}"))

    assert outcome.status is None
    assert receiver.connections == 0


def test_a_name_that_nobody_knows_is_a_failure() -> None:
    outcome = WebhookSender([]).send(a_message("https://nobody.invalid/"))

    assert str(outcome.error).startswith("no answer: gaierror")


def test_the_second_address_is_tried_if_nobody_is_at_the_first() -> None:
    with receiving() as receiver:
        sender = WebhookSender(LOOPBACK, resolve=ChangingResolver(["127.0.0.2", "127.0.0.1"]))
        outcome = sender.send(a_message(f"http://{NAME}:{receiver.port}"))

    assert outcome.status == 204


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of the name alone, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]), datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(pem + built.public_bytes(serialization.Encoding.PEM))
    return path


def sent_by_tls(receiver: Receiver, host: str) -> DeliveryOutcome:
    sender = WebhookSender(LOOPBACK, resolve=ChangingResolver(["127.0.0.1"]))
    return sender.send(a_message(f"https://{host}:{receiver.port}"))


def test_over_tls_name_and_certificate_are_those_of_the_url(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with receiving(certificate) as receiver:
        right, wrong = sent_by_tls(receiver, NAME), sent_by_tls(receiver, "other.example")

    assert right == DeliveryOutcome(204, None)
    assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"
    assert receiver.server_names == [NAME, "other.example"]
    assert wrong.status is None
    assert "CERTIFICATE_VERIFY_FAILED" in str(wrong.error)


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with receiving(certificate) as receiver:
        outcome = sent_by_tls(receiver, NAME)

    assert (outcome.status, receiver.received) == (None, [])
    assert "CERTIFICATE_VERIFY_FAILED" in str(outcome.error)

"""A real S3-compatible server on loopback: rclone serves a folder. Its keys are those of no other service."""

import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.config import Settings
from tests.support.waiting import wait_for

BUCKET = "tunesmith"
RCLONE = Path(sys.executable).with_name("rclone")


@dataclass
class S3Server:
    """One server, which can be stopped and started again with the same address, folder and keys."""

    folder: Path
    port: int
    key_id: str = "of-tests"
    secret: str = field(default_factory=secrets.token_hex)
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What opens it, as the variables of a service."""
        return {
            "TUNESMITH_STORE_URL": f"s3://{BUCKET}/of/tests",
            "TUNESMITH_STORE_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "TUNESMITH_STORE_ADDRESSING": "path",
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def objects(self) -> Path:
        """The folder of the objects below the prefix."""
        return self.folder / BUCKET / "of" / "tests"

    def start(self) -> None:
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)
        argv = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key"]
        argv += [f"{self.key_id},{self.secret}", "--config", "/dev/null", str(self.folder)]
        log = self.folder.with_suffix(".log")
        with log.open("ab") as output:
            self.process = subprocess.Popen(argv, stdout=output, stderr=output)
        wait_for("the S3 server answers", self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.folder.with_suffix(".log").read_text()
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def serving_s3(folder: Path) -> Iterator[S3Server]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = S3Server(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def with_store(server: S3Server, home: Path, prefix: str, **values: object) -> Settings:
    """The settings of a host with a home of its own, and with the store below a prefix."""
    named = {"home": home, "store_url": f"s3://{BUCKET}/{prefix}"}
    endpoint = server.environment["TUNESMITH_STORE_ENDPOINT"]
    return Settings.model_validate({**named, "store_endpoint": endpoint, "store_addressing": "path", **values})

"""How fast the API starts, and how fast it answers a poll while a job runs. Prints one line of JSON.

usage: api_latency.py URL JOB_ID [--requests N]      against a running service; JOB_ID is a running job
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import httpx


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("job")
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    with httpx.Client(base_url=options.url, timeout=30) as api:
        status = api.get(f"/jobs/{options.job}").json()["status"]
        milliseconds = sorted(poll(api, options.job) for _ in range(options.requests))
        still = api.get(f"/jobs/{options.job}").json()["status"]
    figures = {
        "status": [status, still],
        "requests": options.requests,
        "p50_ms": round(statistics.median(milliseconds), 2),
        "p95_ms": round(milliseconds[int(0.95 * len(milliseconds))], 2),
        "max_ms": round(milliseconds[-1], 2),
        "api_ready_seconds": round(seconds_to_ready(), 2),
    }
    print(json.dumps(figures))


def poll(api: httpx.Client, job: str) -> float:
    started = time.perf_counter()
    api.get(f"/jobs/{job}").raise_for_status()
    return (time.perf_counter() - started) * 1000


def seconds_to_ready() -> float:
    """From the start of the process to its first answer, on a home of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        argv = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port)]
        started = time.perf_counter()
        env = {**os.environ, "TUNESMITH_HOME": home}
        api = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not answers(port):
                time.sleep(0.02)
            return time.perf_counter() - started
        finally:
            api.terminate()
            api.wait(10)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()

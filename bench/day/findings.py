"""What must hold at the end of the day, whatever went wrong in it. Each finding is a line for a person."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from sqlalchemy import MetaData

from app.database.migrate import closing_engine
from bench.chaos.customers import ENDED
from bench.day.hosts import Day
from bench.day.tenants import STEPS, Tenant

Row = dict[str, Any]
# In any case projects may differ by one training, which is more than 10 % of few.
TOLERANCE, LEAST = 0.10, 1
CHANGES = {"cancel": "job.cancel", "pause": "job.pause", "resume": "job.resume"}
# What a user asked for, by whether the job was paused and by its new status, if no worker had to carry it out.
AT_ONCE = {(False, "paused"): "pause", (True, "queued"): "resume", (True, "cancelled"): "cancel"}
AT_ONCE[False, "cancelled"] = "cancel"


@dataclass
class Findings:
    """`ordered`: how many jobs each project was to submit. `lines`: command lines that were seen."""

    day: Day
    tenants: list[Tenant]
    ordered: dict[str, int]
    lines: set[str]

    def all(self) -> dict[str, list[str]]:
        """By what was broken; an empty list is what must be there."""
        checks = {
            "wrong_answers": self.wrong_answers,
            "jobs_lost_or_doubled": self.lost_jobs,
            "not_ended_once": self.wrong_ends,
            "wrong_results": self.wrong_results,
            "unfair": self.unfairness,
            "secrets_seen": self.leaks,
            "rows_of_others_seen": self.foreign_rows,
            "audit_incomplete": self.wrong_audit,
            "ends_not_told": self.untold_ends,
            "usage_wrong": self.wrong_usage,
        }
        return {name: list(check()) for name, check in checks.items()}

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """All rows of all tables."""
        with closing_engine(self.day.settings.database) as engine, engine.connect() as connection:
            schema = MetaData()
            schema.reflect(connection)
            return {
                table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
                for table in schema.sorted_tables
            }

    @cached_property
    def jobs(self) -> dict[str, Row]:
        return {job["id"]: job for job in self.rows["jobs"]}

    def of_jobs(self, table: str) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows[table]:
            found[row["job_id"]].append(row)
        return found

    def wrong_answers(self) -> Iterator[str]:
        for tenant in self.tenants:
            yield from tenant.wrong

    def lost_jobs(self) -> Iterator[str]:
        known = {job_id: tenant.project for tenant in self.tenants for job_id in tenant.jobs}
        stored = {job_id: job["project"] for job_id, job in self.jobs.items()}
        yield from (f"{job_id} of {project}" for job_id, project in known.items() ^ stored.items())
        counts = Counter(stored.values())
        if counts != self.ordered:
            yield f"{dict(counts)} jobs are there, of {self.ordered}"

    def wrong_ends(self) -> Iterator[str]:
        events, attempts, adapters = (self.of_jobs(name) for name in ("job_events", "attempts", "adapters"))
        for job_id, job in self.jobs.items():
            own = sorted(events[job_id], key=lambda event: int(event["seq"]))
            ends = [one["payload"]["status"] for one in own if one["kind"] == "status"]
            finals = [status for status in ends if status in ENDED]
            if [one["seq"] for one in own] != list(range(1, job["last_seq"] + 1)):
                yield f"{job_id}: its events are not numbered from 1 to {job['last_seq']}"
            if finals != [job["status"]] or job["status"] == "failed":
                yield f"{job_id} is {job['status']}, its ends are {finals}, its error {job['error']}"
            if any(attempt["ended_at"] is None for attempt in attempts[job_id]):
                yield f"{job_id}: an attempt has no end"
            if len(adapters[job_id]) != (job["status"] == "succeeded"):
                yield f"{job_id} is {job['status']} and has {len(adapters[job_id])} adapters"

    def wrong_results(self) -> Iterator[str]:
        """Each training takes the same steps, so each has the same losses and the same adapter."""
        versions = Counter(adapter["version"] for adapter in self.rows["adapters"])
        if len(versions) > 1:
            yield f"adapters of equal trainings differ: {versions}"
        events = self.of_jobs("job_events")
        for job_id, job in self.jobs.items():
            steps = {one["payload"]["step"]: one["payload"]["loss"] for one in events[job_id] if one["kind"] == "step"}
            right = {step: 4.0 * 0.9**step for step in range(1, STEPS + 1)}
            is_right = all(abs(right[step] - loss) < 1e-9 for step, loss in steps.items())
            if job["status"] == "succeeded" and not (is_right and steps.keys() == right.keys()):
                yield f"{job_id}: its steps are {steps}"

    @cached_property
    def begun(self) -> Counter[str]:
        """How many trainings each project has begun while each of them had a job that waited for its first one.

        A job that is to be tried again may have to wait for its time, so it does not show that its project waits.
        """
        counts, has_begun = Counter[str](), set[str]()
        waiting: dict[str, set[str]] = {tenant.project: set() for tenant in self.tenants}
        changes = (event for event in self.rows["job_events"] if event["kind"] == "status")
        for event in sorted(changes, key=lambda one: (one["at"], one["seq"])):
            job_id, change = event["job_id"], event["payload"]
            project = self.jobs[job_id]["project"]
            if change.get("stage") == "train":
                counts[project] += all(waiting.values())
                has_begun.add(job_id)
            is_waiting = change["status"] == "queued" and job_id not in has_begun
            (waiting[project].add if is_waiting else waiting[project].discard)(job_id)
        return counts

    def unfairness(self) -> Iterator[str]:
        counts = [self.begun[tenant.project] for tenant in self.tenants]
        if max(counts) - min(counts) > max(LEAST, TOLERANCE * max(counts)):
            yield f"trainings begun while all projects had waiting jobs: {dict(self.begun)}"

    def leaks(self) -> Iterator[str]:
        canaries = {name: value for tenant in self.tenants for name, value in tenant.canaries.items()}
        canaries |= {f"webhook of {one.project}": one.signing_secret for one in self.tenants if one.signing_secret}
        forms = [(name, form.encode()) for name, value in canaries.items() for form in {value, quote(value, safe="")}]
        for place, content in self.outputs():
            yield from (f"{name} is in {place}" for name, form in forms if form in content)

    def outputs(self) -> Iterator[tuple[str, bytes]]:
        """All that is left of the day: files of the homes, of the store and of logs, rows, messages, command lines."""
        models = self.day.folder / "models"
        for path in self.day.folder.rglob("*"):
            if path.is_file() and not path.is_relative_to(models):
                yield str(path.relative_to(self.day.folder)), path.read_bytes()
        for table, rows in self.rows.items():
            yield f"table {table}", str(rows).encode()
        yield from ((f"the command line {line[:80]}", line.encode()) for line in self.lines)
        for tenant in self.tenants:
            yield from ((f"a message to {got.path}", got.body) for got in tenant.messages)

    def foreign_rows(self) -> Iterator[str]:
        """Whatever a key was answered, a row of another project is named nowhere in it."""
        owners = {
            row["id"]: row["project"] for rows in self.rows.values() for row in rows if row.keys() >= {"id", "project"}
        }
        for tenant in self.tenants:
            foreign = {one: owners[one] for one in tenant.ids if owners.get(one, tenant.project) != tenant.project}
            yield from (f"{tenant.project} has seen {one} of {owner}" for one, owner in foreign.items())

    def wrong_audit(self) -> Iterator[str]:
        """One entry for each change: what the rows say that was changed, and no entry besides."""
        changes = Counter(("job.create", job["id"], job["project"]) for job in self.jobs.values())
        changes += Counter(("file.create", one["id"], one["project"]) for one in self.rows["files"])
        changes += Counter(("key.create", one["id"], one["project"]) for one in self.rows["api_keys"])
        changes += Counter(("webhook.create", one["id"], one["project"]) for one in self.rows["webhook_endpoints"])
        changes += Counter(("secret.store", one["name"], one["project"]) for one in self.rows["project_secrets"])
        for job_id, events in self.of_jobs("job_events").items():
            changes += Counter((what, job_id, self.jobs[job_id]["project"]) for what in _asked_for(events))
        entries = Counter((one["action"], one["subject"], one["project"]) for one in self.rows["audit"])
        yield from (f"no entry of {change} ({count})" for change, count in (changes - entries).items())
        yield from (f"an entry without a change: {entry} ({count})" for entry, count in (entries - changes).items())

    def untold_ends(self) -> Iterator[str]:
        for tenant in self.tenants:
            own = [job for job in self.jobs.values() if job["project"] == tenant.project and tenant.webhook]
            ends = {(f"fine_tuning.job.{job['status']}", job["id"]) for job in own}
            yield from (f"{tenant.project} was not told of {end}" for end in ends - tenant.told)

    def wrong_usage(self) -> Iterator[str]:
        counted = Counter[str]()
        for row in self.rows["usage"]:
            counted[row["project"]] += row["jobs"]
        stored = Counter(job["project"] for job in self.jobs.values())
        if counted != stored:
            yield f"usage counts {dict(counted)}, jobs are {dict(stored)}"


def _asked_for(events: list[Row]) -> Iterator[str]:
    """The requests of users that have changed the job, as its events tell them.

    A request that a worker carries out is an event of its own; otherwise the new status is the change, which comes
    from no worker then.
    """
    requested, status = "", ""
    for event in sorted(events, key=lambda one: int(one["seq"])):
        before, status = status, event["payload"].get("status", status)
        if event["kind"] == "request":
            requested = event["payload"]["request"]
            yield CHANGES[requested]
        elif event["kind"] == "status" and (what := AT_ONCE.get((before == "paused", status))) not in (None, requested):
            requested = str(what)
            yield CHANGES[requested]

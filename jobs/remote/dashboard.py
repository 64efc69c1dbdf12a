"""The jobs of a cluster, through Ray's job submission client, with a sentence for whatever is in the way."""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient, JobType

from flowpairs.jobs.remote.request import Request
from flowpairs.pipeline.base.errors import InputError, JobError

PATIENCE = (10, 120)  # seconds to connect, and for an answer: an upload is stored by then
FOLLOW, STOP = "flowpairs jobs --follow", "flowpairs stop"


class Client(JobSubmissionClient):
    """Ray's client with an end to its patience: without one, an address that swallows packets hangs for ever."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=PATIENCE, **options)

    def ray_version(self) -> str:
        """That of the cluster."""
        return self._do_request("GET", "/api/version").json()["ray_version"]


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job, as the cluster lists it."""

    id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    exit_code: int | None  # of the command, once it has ended by itself
    command: str | None  # of flowpairs; None of a job that another program submitted
    output: str | None  # the directories or URLs that it writes to, a line each
    entrypoint: str
    started: float | None  # seconds since 1970
    ended: float | None

    @classmethod
    def of(cls, details: JobDetails) -> "SubmittedJob":
        """What is of interest in Ray's account."""
        metadata = details.metadata or {}
        start, end = ((ms / 1000 if ms else None) for ms in (details.start_time, details.end_time))
        return cls(
            id=details.submission_id or "",
            status=str(details.status),
            exit_code=details.driver_exit_code,
            command=metadata.get("command"),
            output=metadata.get("output"),
            entrypoint=details.entrypoint,
            started=start,
            ended=end,
        )

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return JobStatus(self.status).is_terminal()


class Dashboard:
    """A cluster that jobs can be submitted to.

    Args:
        address: the URL of its dashboard.

    Raises:
        InputError: no URL, nobody there, a token that is missing or wrong, another version of Ray.
    """

    def __init__(self, address: str | None) -> None:
        if not address:
            raise InputError(
                "--address: missing; give the URL of the cluster's dashboard, as in --address http://127.0.0.1:8265, "
                "or export RAY_ADDRESS"
            )
        if not address.startswith(("http://", "https://")):
            raise InputError(
                f"--address={address!r}: no URL of a dashboard, which takes jobs; give one, as in http://127.0.0.1:8265"
            )
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray's client prefers to what it is given
        for handler in logging.getLogger("ray").handlers:  # Ray's modules set their own loggers' levels
            handler.setLevel(logging.WARNING)
        with self._asking():
            self.client = Client(address)
            check_ray(address, self.client.ray_version(), ray.__version__)

    def jobs(self) -> list[SubmittedJob]:
        """All that were submitted, oldest first."""
        with self._asking():
            listed = [SubmittedJob.of(job) for job in self.client.list_jobs() if job.type is JobType.SUBMISSION]
        return sorted(listed, key=lambda job: job.started or 0.0)

    def submit(self, request: Request, bundle: Path, pip: list[str] | None) -> str:
        """Ship a bundle and have the command run in it; returns the job's name.

        The name numbers the submissions of a command for one directory, and a name is taken once: of two that are
        submitted at the same time, one is refused.

        Args:
            request: what to run.
            bundle: what is shipped, as `jobs.remote.bundle` packed it.
            pip: lines of requirements to install first; None: none.

        Raises:
            InputError: a job that still runs writes to the same place.
        """
        jobs = self.jobs()
        for job in jobs:
            both = set(request.outputs) & set((job.output or "").splitlines())
            if both and not job.over:
                raise InputError(
                    f"output.dir={min(both)!r}: {job.id} writes there and still runs; follow it with "
                    f"`{FOLLOW} {job.id}` or end it with `{STOP} {job.id}` first"
                )
        stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(request.subject).stem).strip("-")
        name = f"{request.command}-{stem}-{hashlib.sha256(request.subject.encode()).hexdigest()[:6]}"
        taken = [int(job.id.rpartition("-")[2]) for job in jobs if re.fullmatch(re.escape(name) + r"-\d+", job.id)]
        config = [] if request.config is None else ["job.yaml"]
        command = ["python", "-m", "flowpairs.jobs.arrival", request.command, *config, *request.arguments]
        metadata = {"command": request.command} | ({"output": "\n".join(request.outputs)} if request.outputs else {})
        with self._asking():
            return self.client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"{name}-{max(taken, default=0) + 1}",
                runtime_env={"working_dir": str(bundle)} | ({"pip": pip} if pip else {}),
                metadata=metadata,
            )

    def follow(self, name: str) -> int:
        """Print a job's log as it grows, from its start, until the job ends; returns the exit status of its command.

        Raises:
            InputError: no such job.
            JobError: it ended without an exit status of its own, or the cluster is gone.
        """
        try:
            job = asyncio.run(self._print_log(name))
        except KeyboardInterrupt:
            print(f"\n{name} goes on; `{FOLLOW} {name}` follows it again, `{STOP} {name}` ends it", file=sys.stderr)
            return 1
        if job.status == JobStatus.SUCCEEDED:
            return 0
        if job.status == JobStatus.STOPPED:
            raise JobError(f"{name} was stopped; submit it again to go on where it was")
        if job.exit_code in (1, 2):  # the log has told why
            return job.exit_code
        if job.exit_code is None:
            with self._asking(name):
                reason = self.client.get_job_info(name).message or "no reason given"
            raise JobError(f"{name} ended from outside: {' '.join(reason.split())[-500:]}; submit it again to go on")
        raise JobError(f"{name} ended with exit status {job.exit_code}; submit it again to go on where it was")

    def stop(self, name: str) -> SubmittedJob:
        """End a job and wait until it has ended, at once where it had already; returns it.

        Raises:
            InputError: no such job.
        """
        with self._asking(name):
            self.client.stop_job(name)
            while not (job := SubmittedJob.of(self.client.get_job_info(name))).over:
                time.sleep(0.2)
        return job

    async def _print_log(self, name: str) -> SubmittedJob:
        """Follow the log to the job's end, and take it up again where a connection breaks."""
        with self._asking(name):
            self.client.get_job_info(name)
        shown = 0
        while True:
            seen = 0
            try:
                async for text in self.client.tail_job_logs(name):  # from the start, whenever it is called
                    seen += len(text)
                    if seen > shown:
                        print(text[shown - seen :], end="", flush=True)
                        shown = seen
            except Exception as error:  # of aiohttp, a dozen kinds; whether the job lives is asked next
                print(f"the connection broke ({error}); trying again", file=sys.stderr)
            try:
                job = SubmittedJob.of(self.client.get_job_info(name))
            except Exception as error:
                raise JobError(
                    f"{self.address}: does not answer any more ({type(error).__name__}); {name} may go on, "
                    f"`{FOLLOW} {name}` follows it again"
                ) from error
            if job.over:
                return job
            await asyncio.sleep(1)

    @contextmanager
    def _asking(self, name: str | None = None) -> Iterator[None]:
        """Turn what Ray's client raises into a sentence; `name` is that of the job asked about."""
        where = f"--address={self.address!r}"
        try:
            yield
        except InputError:
            raise
        except AuthenticationError as error:
            raise InputError(f"{where}: {_token(str(error))}") from error
        except ConnectionError as error:
            raise InputError(
                f"{where}: no answer; start the cluster, or forward its port as `ray dashboard cluster.yaml` does"
            ) from error
        except OSError as error:  # as all errors of requests are
            raise InputError(f"{where}: no Ray dashboard answers ({error}); mend the address") from error
        except RuntimeError as error:
            if name is not None and "status code 404" in str(error):
                raise InputError(f"job {name!r}: not on this cluster; `flowpairs jobs` lists those that are") from error
            if "already exists" in str(error):
                raise InputError("somebody submitted the same just now; `flowpairs jobs` lists it") from error
            raise JobError(f"{where}: {' '.join(str(error).split())}") from error


def check_ray(address: str, theirs: str, ours: str) -> None:
    """Refuse a cluster whose Ray is not that of this machine, up to patches: flowpairs is tried with one at a time."""
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise InputError(
            f"--address={address!r}: Ray {theirs} there and {ours} here; "
            f"give the cluster an image with Ray {ours}, or install flowpairs with its constraints.txt here"
        )


def _token(error: str) -> str:
    """The sentence for a refusal."""
    if "invalid" in error.lower():
        return "wrong token; put the cluster's into RAY_AUTH_TOKEN or ~/.ray/auth_token"
    return (
        "asks for a token, and none is here; export RAY_AUTH_MODE=token and put the cluster's into RAY_AUTH_TOKEN or "
        "~/.ray/auth_token"
    )

"""The jobs of a cluster, by Ray's job submission client, with a clear error message for each obstacle."""

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

PATIENCE = (10, 120)  # seconds to connect, and to wait for an answer, which includes storing an upload
FOLLOW, STOP = "flowpairs jobs --follow", "flowpairs stop"


class Client(JobSubmissionClient):
    """Ray's client with timeouts: without them, an address that drops packets hangs forever."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=PATIENCE, **options)

    def ray_version(self) -> str:
        """Ask the cluster for its version of Ray."""
        return self._do_request("GET", "/api/version").json()["ray_version"]


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job, as the cluster lists it."""

    id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    exit_code: int | None  # of the command, if it ended by itself
    command: str | None  # the flowpairs command; None for a job that another program submitted
    output: str | None  # the directories or URLs that it writes to, one per line
    entrypoint: str
    started: float | None  # seconds since 1970
    ended: float | None

    @classmethod
    def of(cls, details: JobDetails) -> "SubmittedJob":
        """Take the fields from Ray's description of a job."""
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
        """Whether the job has ended, in any way."""
        return JobStatus(self.status).is_terminal()


class Dashboard:
    """A cluster that jobs can be submitted to.

    Args:
        address: the URL of the dashboard.

    Raises:
        InputError: the address is not a URL or does not answer, the token is missing or wrong, or the version of Ray
            differs.
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
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client prefers this to its argument
        for handler in logging.getLogger("ray").handlers:  # Ray's modules set their own loggers' levels
            handler.setLevel(logging.WARNING)
        with self._asking():
            self.client = Client(address)
            check_ray(address, self.client.ray_version(), ray.__version__)

    def jobs(self) -> list[SubmittedJob]:
        """List all submitted jobs, oldest first."""
        with self._asking():
            listed = [SubmittedJob.of(job) for job in self.client.list_jobs() if job.type is JobType.SUBMISSION]
        return sorted(listed, key=lambda job: job.started or 0.0)

    def submit(self, request: Request, bundle: Path, pip: list[str] | None) -> str:
        """Ship a bundle and run the command in it on the cluster.

        The name of the job ends with the number of the submission of a command for one directory. A name can be used
        only once: of two jobs that are submitted at the same time, one is refused.

        Args:
            request: the command to run.
            bundle: the directory to ship, as `jobs.remote.bundle` packed it.
            pip: the lines of requirements to install first; None: none.

        Returns:
            The name of the job.

        Raises:
            InputError: a job that still runs writes to the same directory.
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
        """Print the log of a job from its start until the job ends.

        Returns:
            The exit status of the command; 1 if the user interrupts.

        Raises:
            InputError: the job does not exist.
            JobError: the job was stopped or ended with another exit status than 0, 1 or 2, or the cluster is gone.
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
        if job.exit_code in (1, 2):  # the log says why
            return job.exit_code
        if job.exit_code is None:
            with self._asking(name):
                reason = self.client.get_job_info(name).message or "no reason given"
            raise JobError(f"{name} ended from outside: {' '.join(reason.split())[-500:]}; submit it again to go on")
        raise JobError(f"{name} ended with exit status {job.exit_code}; submit it again to go on where it was")

    def stop(self, name: str) -> SubmittedJob:
        """Stop a job, wait until it has ended, and return it; a job that has already ended is returned at once.

        Raises:
            InputError: the job does not exist.
        """
        with self._asking(name):
            self.client.stop_job(name)
            while not (job := SubmittedJob.of(self.client.get_job_info(name))).over:
                time.sleep(0.2)
        return job

    async def _print_log(self, name: str) -> SubmittedJob:
        """Print the log until the job ends, and reconnect if the connection breaks."""
        with self._asking(name):
            self.client.get_job_info(name)
        shown = 0
        while True:
            seen = 0
            try:
                async for text in self.client.tail_job_logs(name):  # each call starts at the beginning
                    seen += len(text)
                    if seen > shown:
                        print(text[shown - seen :], end="", flush=True)
                        shown = seen
            except Exception as error:  # aiohttp raises a dozen kinds; the next request shows whether the job lives
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
        """Turn errors of Ray's client into InputError and JobError; `name` is the job that the request is about."""
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
        except OSError as error:  # the base of all errors of requests
            raise InputError(f"{where}: no Ray dashboard answers ({error}); mend the address") from error
        except RuntimeError as error:
            if name is not None and "status code 404" in str(error):
                raise InputError(f"job {name!r}: not on this cluster; `flowpairs jobs` lists those that are") from error
            if "already exists" in str(error):
                raise InputError("somebody submitted the same just now; `flowpairs jobs` lists it") from error
            raise JobError(f"{where}: {' '.join(str(error).split())}") from error


def check_ray(address: str, theirs: str, ours: str) -> None:
    """Refuse a cluster with another minor version of Ray than this machine: flowpairs is tested with one at a time."""
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise InputError(
            f"--address={address!r}: Ray {theirs} there and {ours} here; "
            f"give the cluster an image with Ray {ours}, or install flowpairs with its constraints.txt here"
        )


def _token(error: str) -> str:
    """Compose the error message for a refused or missing token."""
    if "invalid" in error.lower():
        return "wrong token; put the cluster's into RAY_AUTH_TOKEN or ~/.ray/auth_token"
    return (
        "asks for a token, and none is here; export RAY_AUTH_MODE=token and put the cluster's into RAY_AUTH_TOKEN or "
        "~/.ray/auth_token"
    )

"""One owner per output directory: a file there names the process that writes, and a second one is refused by name.

    DIR/owner.json   host, process, command, start, and a heartbeat of every ten seconds; removed at the end

The file is made exclusively: by open(2) on disks and NFS, without flock; at a URL by a conditional upload, where the
filesystem has one (s3, gcs), else by a look before the upload, which two that start in the same second both pass. An
owner is dead if it was a process of this machine that is gone, at once, or if its heart has not beaten for a minute.
A dead owner's directory is taken over.
"""

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread

from flowpairs.pipeline.base.atomic import unwritable
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.printing import print_line

NAME = "owner.json"
BEAT = 10.0  # seconds between two heartbeats
SILENCE = 60.0  # seconds without one after which an owner on another machine counts as dead
LOOK = 2.5 * BEAT  # seconds for which an owner that seems dead is watched: clocks of two machines may differ
SETTLE = 1.0  # seconds after a takeover in which another one may have done the same


@dataclass(frozen=True)
class Owner:
    """The process that writes to a directory.

    Attributes:
        command: what it does, as in "flowpairs couple".
        host: name of its machine.
        machine: identity of its machine and process namespace; "" where that is not known.
        process: its process id.
        born: when it started, in the kernel's ticks since boot; a process id may be used again.
        started: when it took the directory, in UTC.
        beat: its last heartbeat, in seconds since 1970 by its own clock.
        token: random, another one for every owner.
    """

    command: str
    host: str
    machine: str
    process: int
    born: int
    started: str
    beat: float
    token: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.process} on {self.host}, since {self.started} UTC)"

    @classmethod
    def own(cls, command: str) -> "Owner":
        """Describe this process as a new owner."""
        now = time.time()
        return cls(
            command=command,
            host=socket.gethostname(),
            machine=_machine(),
            process=os.getpid(),
            born=_born(os.getpid()) or 0,
            started=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now)),
            beat=now,
            token=secrets.token_hex(8),
        )

    def gone(self) -> bool | None:
        """Return whether its process has ended; None where that cannot be seen from here."""
        if not self.machine or self.machine != _machine():
            return None
        return _born(self.process) != self.born


def is_empty(directory: AnyPath) -> bool:
    """Return whether a directory is not there, or holds nothing but the file of an owner."""
    return not directory.is_dir() or all(path.name == NAME for path in directory.iterdir())


def refuse_owned(directory: AnyPath, key: str, name: str = NAME) -> None:
    """Refuse a directory that a living process owns; nothing is written.

    Args:
        directory: output directory of a job, which need not exist.
        key: key and value of the config that name the directory, for the message.
        name: name of the owner file.

    Raises:
        InputError: another process owns it.
    """
    owner = _read(directory / name)
    if owner is not None:
        _refuse_living(owner, directory / name, key)


@contextmanager
def owned(directory: AnyPath, key: str, command: str, name: str = NAME) -> Iterator[None]:
    """Own a directory inside the `with` block; one whose owner is dead is taken over.

    Args:
        directory: output directory of the job, made if it is missing.
        key: key and value of the config that name the directory, for messages.
        command: what the job is, for others' messages.
        name: name of the owner file.

    Raises:
        InputError: another process owns it.
        JobError: it cannot be written, or another process took it over, since this one was suspended or cut off.
    """
    path, me = directory / name, Owner.own(command)
    _take(directory, path, me, key)
    stop, lost, thread = Event(), Event(), threading.current_thread()

    def beat() -> None:
        while not stop.wait(BEAT):
            with suppress(OSError, InputError):  # a full disk or a lost network: the job's own writes will show it
                found = _read(path)
                if found is not None and found.token != me.token:
                    lost.set()
                    if thread is threading.main_thread() and thread.ident is not None:
                        signal.pthread_kill(thread.ident, signal.SIGINT)  # wakes it from whatever it waits for
                    return
                _put(path, replace(me, beat=time.time()), exclusive=False)

    heart = Thread(target=beat, name="owner", daemon=True)
    heart.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
    finally:
        stop.set()
        heart.join()
        with suppress(OSError, InputError):
            found = _read(path)
            if found is not None and found.token == me.token:
                path.unlink(missing_ok=True)
    if lost.is_set():
        raise JobError(f"{key}: {_read(path)} took over, since this process did not run for a while")


def _take(directory: AnyPath, path: AnyPath, me: Owner, key: str) -> None:
    """Make the owner file, after the removal of a dead one's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        while not _put(path, me, exclusive=True):
            found = _read(path)
            if found is None:
                continue  # it ended in between
            _refuse_living(found, path, key)
            print_line(f"{key}: {found} is gone; going on in its place", sys.stderr)
            path.unlink(missing_ok=True)
            if _put(path, me, exclusive=True):
                time.sleep(SETTLE)
                found = _read(path)
                if found is None or found.token == me.token:
                    return
    except OSError as error:
        raise unwritable(path, error) from error


def _put(path: AnyPath, owner: Owner, *, exclusive: bool) -> bool:
    """Write the owner file; return False where it had to be new and is not."""
    data = json.dumps(asdict(owner), indent=1).encode() + b"\n"
    if not isinstance(path, Path):
        return path.put_bytes(data, exclusive=exclusive)
    if not exclusive:
        temporary = path.with_name(f".{path.name}.{owner.token}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
        return True
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _read(path: AnyPath) -> Owner | None:
    """Read an owner file; None where there is none."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):  # cut off while it was written, or not ours: its time is all that is known of it
        try:
            beat = path.stat().st_mtime
        except FileNotFoundError:
            return None
        return Owner("an unknown job", "an unknown host", "", 0, 0, "an unknown time", beat, "")


def _refuse_living(owner: Owner, path: AnyPath, key: str) -> None:
    if not _is_dead(owner, path):
        raise InputError(f"{key}: {owner} writes there; wait for it, stop it, or give another directory")


def _is_dead(owner: Owner, path: AnyPath) -> bool:
    """Decide whether an owner is dead; one on another machine is watched for a while if its heart seems to stand."""
    gone = owner.gone()
    if gone is not None:
        return gone
    if time.time() - owner.beat < SILENCE:
        return False
    print_line(f"{path}: {owner} has been silent for a while; watching for {LOOK:.0f} s", sys.stderr)
    deadline = time.monotonic() + LOOK
    while time.monotonic() < deadline:
        time.sleep(1)
        found = _read(path)
        if found is None or found != owner:
            return found is None
    return True


def _machine() -> str:
    """Identify this machine and its process namespace; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(process: int) -> int | None:
    """Read when a process started; None where there is no such process, or only one that waits to be buried."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])

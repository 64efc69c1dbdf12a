"""The actors around a solver: each fetches the job once, solves in one thread and writes in another.

A block too large for one GPU is solved by a team: a `SolverActor` and the `Member`s that it starts, all in the
placement group that it was given. All members solve the same block at the same time (see
pipeline/ot/tiles/partition.py); only the leader writes.
"""

from queue import Queue
from threading import Event, Thread, Timer
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.cluster.devices import assigned_device, check_alike
from flowpairs.pipeline.cluster.scheduler import Loss
from flowpairs.pipeline.cluster.shapes import ActorShape, fit, nodes
from flowpairs.pipeline.solve.device_memory import device_name
from flowpairs.pipeline.solve.timed import BuildSolver, TimedSolver

GROUPS = {"write": 1, "watch": 1}  # concurrency groups of a `SolverActor`, a thread each
FORMING = 60.0  # seconds in which members that have their job find each other; else the team is made anew
PATIENCE = 10.0  # seconds in which the reason of a failed sum shows: the death of a member


class Member:
    """A member of a team other than its leader.

    Args:
        solver: `build_solver`, or `PotentialSolver` for the problems of a semi-discrete coupling.
        job: reference to the job. It comes inside a list, so that a restarted actor fetches it again from its owner,
            the driver.
        threads: number of CPU cores that this actor was given.
    """

    def __init__(self, solver: BuildSolver, job: list[ray.ObjectRef], threads: int) -> None:
        self.arguments = solver, job, threads

    def prepare(self) -> str:
        """Fetch the job and build the solver; not at the actor's start, whose errors Ray passes on only as text.

        Returns: the name of this actor's device.
        """
        solver, job, threads = self.arguments
        self.device = assigned_device()
        self.solver = solver(ray.get(job[0]), threads, self.device)
        return device_name(self.device)

    def join(self, host: str, port: int, rank: int, size: int) -> None:
        """Join the team whose meeting point is at this host and port."""
        from flowpairs.pipeline.cluster.process_group import ProcessTeam

        self.solver.team = ProcessTeam.join(host, port, rank, size, self.device)

    def help(self, number: int, ahead: int | None) -> None:
        """Do this member's part of a block; see `flowpairs.pipeline.solve.timed.Solver.solve`."""
        self.solver.solve(number, ahead)


class SolverActor(Member):
    """Solves blocks on the devices that Ray assigned, alone or as the leader of a team.

    It is made remote with `concurrency_groups=GROUPS`, so that `write` runs in a thread of its own: one block is
    encoded, hashed and written while the next one is solved, and the one after that waits for both. So does `lose`.

    Args:
        solver: what builds the solver, as for `Member`.
        job: reference to the job, as for `Member`.
        threads: number of CPU cores, as for `Member`.
        group: placement group of the team, one bundle per member with the leader's first; None for a team of one.
    """

    def __init__(self, solver: BuildSolver, job: list[ray.ObjectRef], threads: int, group: Any = None) -> None:
        super().__init__(solver, job, threads)
        self.unwritten: Queue[tuple[Any, float]] = Queue()
        self.group, self.members = group, list[Any]()
        self.lost = Queue[Loss | Exception]()
        self.losing = Event()

    def ready(self) -> None:
        """Return once this actor is placed, has its job, and its team is complete."""
        name = self.prepare()
        self.timed = TimedSolver(self.solver)
        if self.group is not None:
            self._form_team(self.group, name)

    def solve(self, number: int, ahead: int | None = None) -> None:
        """Solve a block and keep it for `write` as soon as the previous block has been written.

        Args:
            number: number of the block.
            ahead: number of the next one, where its inputs are to be made meanwhile.
        """
        watch = self._watch([member.help.remote(number, ahead) for member in self.members])
        try:
            solved = self.timed.solve(number, ahead)
        except (InputError, JobError):
            raise  # every member raises the same error
        except Exception:
            if self.members and self.losing.wait(PATIENCE):
                Event().wait()  # the driver hears of the member instead, and ends this process
            raise
        watch.join()
        self.unwritten.join()
        self.unwritten.put(solved)

    @ray.method(concurrency_group="write")
    def write(self) -> dict[str, Any]:
        """Write the shards of the block that was solved; return its report with the resources that it took."""
        solved = self.unwritten.get()
        try:
            return {**self.timed.write(solved), "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}
        finally:
            self.unwritten.task_done()

    @ray.method(concurrency_group="watch")
    def lose(self) -> Loss:
        """Return when a member has died, and how; raise what a member raised. The others would wait for it for ever."""
        found = self.lost.get()
        if isinstance(found, Exception):
            raise found
        return found

    def _watch(self, parts: list[ray.ObjectRef]) -> Thread:
        """Wait in a thread for what members do, and tell `lose` of one that dies or fails."""

        def watch() -> None:
            found = _first_fault(parts)
            if found is not None:
                self.lost.put(found)
                self.losing.set()

        thread = Thread(target=watch, name="members", daemon=True)
        thread.start()
        return thread

    def _form_team(self, group: Any, name: str) -> None:
        """Start the members, on devices of this one's name, and wait until all have joined."""
        from flowpairs.pipeline.cluster.process_group import ProcessTeam, open_store

        size = group.bundle_count
        for rank in range(1, size):
            bundle = group.bundle_specs[rank]
            remote: Any = ray.remote(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
            )(Member)
            self.members.append(remote.remote(*self.arguments))
        prepared = [member.prepare.remote() for member in self.members]
        self._watch(prepared).join()
        if self.losing.is_set():
            Event().wait()  # as in `solve`
        check_alike([name, *ray.get(prepared)])
        host = ray.util.get_node_ip_address()
        store, port = open_store(host, size)
        late = Timer(FORMING, self.lost.put, [Loss(f"the members of a team did not meet in {FORMING:.0f} s")])
        late.daemon = True
        late.start()
        watch = self._watch([member.join.remote(host, port, rank, size) for rank, member in enumerate(self.members, 1)])
        self.solver.team = ProcessTeam(store, 0, size, self.device)
        watch.join()
        late.cancel()


def _first_fault(parts: list[ray.ObjectRef]) -> Loss | Exception | None:
    """Wait until all members are done, or one dies or fails; a member may fail because another one died."""
    failed: Exception | None = None
    while parts:
        done, parts = ray.wait(parts, num_returns=1, timeout=None if failed is None else PATIENCE)
        if not done:
            break
        try:
            ray.get(done[0])
        except RayActorError as error:
            return Loss(" ".join(str(error).split()), error.preempted)
        except RayTaskError as error:
            failed = failed or (error.cause if isinstance(error.cause, Exception) else error)
            if isinstance(failed, InputError | JobError):
                break
    return failed


class ActorPool:
    """Starts and stops actors; where several actors solve one block, each is the leader of a team and comes with it.

    A team is as large as the nodes that are there allow: results do not depend on its size.

    Args:
        shape: number and size of actors.
        team: number of actors that solve one block together.
        solver: what builds the solver, as for `SolverActor`.
        job: reference to the job.
        ahead: whether each is told its next block while it solves one.
    """

    def __init__(
        self, shape: ActorShape, team: int, solver: BuildSolver, job: ray.ObjectRef, *, ahead: bool = False
    ) -> None:
        self.shape, self.team, self.size, self.ahead = shape, team, shape.actors // team, ahead
        self.arguments = solver, [job], shape.cpus
        remote: Any = ray.remote  # its annotations do not know concurrency groups
        resources = {"num_cpus": shape.cpus, "num_gpus": shape.gpus}
        self.remote = remote(**resources, concurrency_groups=GROUPS)(SolverActor)
        self.groups: dict[Any, Any] = {}

    def start(self) -> Any:
        """Start an actor; its team is placed as a whole, so that no two half-formed teams wait for each other."""
        team = self._team()
        if team == 1:
            return self.remote.remote(*self.arguments)
        bundle = {"CPU": float(self.shape.cpus), "GPU": float(self.shape.gpus)}
        group = placement_group([{k: v for k, v in bundle.items() if v}] * team, strategy="PACK")
        at = PlacementGroupSchedulingStrategy(group, 0)
        actor = self.remote.options(scheduling_strategy=at).remote(*self.arguments, group)
        self.groups[actor] = group
        return actor

    def watch(self, actor: Any) -> ray.ObjectRef | None:
        """Refer to the loss of a member of an actor's team; None for an actor that works alone."""
        return actor.lose.remote() if actor in self.groups else None

    def fits(self, actor: Any) -> bool:
        """Return whether an actor that has not answered yet can be placed on the nodes that are there now."""
        wanted = self.groups[actor].bundle_count if actor in self.groups else 1
        return wanted <= self._team()

    def _team(self) -> int:
        """Find the size of a team that the nodes can hold: that which was asked for, or less after a loss."""
        if self.team == 1:
            return 1
        return max(1, min(self.team, fit(*nodes(), self.shape.cpus, self.shape.gpus)))

    def stop(self, actor: Any) -> None:
        """End an actor, dead or alive, and its team."""
        ray.kill(actor)
        if actor in self.groups:
            remove_placement_group(self.groups.pop(actor))

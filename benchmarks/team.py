"""One block on two single-thread actors against one actor with two threads, and what travels between them.

    python benchmarks/team.py [--n 16384] [--rel-eps .1 .03 .003] [--rounds 3]

Both solve the same problem to an L1 error of 1e-3 and must end in the same bits. They take turns on the same cores;
the ratio is that of the least times. Bytes are those of the vectors that a member hands to the sum over the team.
"""

import argparse

import ray
import torch
from fashion import problem

from flowpairs.pipeline.cluster.process_group import ProcessTeam, open_store
from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team


class Counting:
    """A team that counts what it is given."""

    def __init__(self, team: Team) -> None:
        self.team, self.rank, self.size = team, team.rank, team.size
        self.sums = self.bytes = 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.sums += 1
        self.bytes += values.numel() * values.element_size()
        return self.team.sum(values)


class Actor:
    """One member, or the only one."""

    def __init__(self, n: int, threads: int) -> None:
        torch.set_num_threads(1)  # the same problem in the same bits, whatever the threads
        self.points = problem(n)
        torch.set_num_threads(threads)
        self.team = Counting(SINGLE)

    def open(self, size: int) -> int:
        self.store, port = open_store("127.0.0.1", size)
        return port

    def join(self, port: int, rank: int, size: int) -> None:
        if rank == 0:
            self.team = Counting(ProcessTeam(self.store, 0, size, "cpu"))
        else:
            self.team = Counting(ProcessTeam.join("127.0.0.1", port, rank, size, "cpu"))

    def solve(self, rel_eps: float) -> tuple[float, int, int, int, torch.Tensor]:
        self.team.sums = self.team.bytes = 0
        coupling = solve_sinkhorn(Problem(*self.points, 1.0).at(rel_eps), team=self.team)
        return coupling.report.seconds, coupling.report.passes, self.team.sums, self.team.bytes, coupling.g


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=16384)
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.1, 0.03, 0.003])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(Actor)
    one, two = remote.remote(options.n, 2), [remote.remote(options.n, 1) for _ in range(2)]
    port = ray.get(two[0].open.remote(2))
    ray.get([actor.join.remote(port, rank, 2) for rank, actor in enumerate(two)])
    print(f"n = m = {options.n}, d = 64; least of {options.rounds}")
    print("rel_eps | passes | one actor, 2 threads | two actors, 1 thread | ratio | same bits | sums | MB a member")
    for rel_eps in options.rel_eps:
        least = [float("inf")] * 2
        for _ in range(options.rounds):
            alone = ray.get(one.solve.remote(rel_eps))
            together = ray.get([actor.solve.remote(rel_eps) for actor in two])
            least = [min(least[0], alone[0]), min(least[1], together[0][0])]
        same = torch.equal(alone[4], together[0][4]) and torch.equal(alone[4], together[1][4])
        _, passes, sums, sent, _ = together[0]
        print(
            f"{rel_eps:7g} | {passes:6d} | {least[0]:18.2f} s | {least[1]:18.2f} s | {least[1] / least[0]:5.2f} | "
            f"{same!s:9} | {sums:4d} | {sent / 1e6:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

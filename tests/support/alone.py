"""The steps of a coupling job one after the other in this process: the truth that jobs on actors are held to."""

from flowpairs.pipeline import data
from flowpairs.pipeline.blocks import source
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.couple import assemble, finish_store, read
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.format import Index


def alone(config: CoupleConfig) -> Index:
    """Couple without Ray; not for method semidiscrete, nor for data that Ray reads."""
    spec = data.check_data(config.data)
    job = assemble(config, *read(config, spec, source.check(config, spec)))
    resume.prepare_store(job.config, job.directory, job.target, job.source)
    coupler = BlockSolver(job.config, job.directory, job.blocks, 2, *job.arrays())
    for block in range(job.blocks.count):
        assert not resume.block_done(job.directory, job.blocks, block)
        coupler.write(coupler.solve(block))
        assert resume.block_done(job.directory, job.blocks, block)
    return finish_store(job)

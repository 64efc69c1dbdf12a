"""The steps of a coupling job one after the other in this process: the truth that jobs on actors are held to."""

from pipeline import data, matrix, resume, source
from pipeline.config import CoupleConfig
from pipeline.couple import _finish, check_sizes, pin_coupling
from pipeline.coupler import Coupler
from pipeline.place import place
from pipeline.store.format import Index


def alone(config: CoupleConfig) -> Index:
    """Couple without Ray; not for methods semidiscrete and imported, nor for data that Ray reads."""
    directory, spec = place(config.output.dir), data.check(config.data)
    source_spec = source.check(config, spec)
    target = data.read(config.data, spec)
    other = source.read(config, source_spec, target)
    blocks = check_sizes(config, len(target.x), None, other)
    config = resume.pin_data(pin_coupling(config, blocks, target, other), directory, target)
    resume.prepare(config, directory, target, other)
    fitted = resume.features(config, directory, target.x, other)
    coupler = Coupler(
        config,
        directory,
        blocks,
        2,
        fitted,
        target.x,
        target.labels,
        fitted.of_data(target.x, flips=config.data.flips),
        weights=target.weights,
        source=other,
        source_features=None if other is None else fitted.of_data(other.x, flips=other.flips),
        matrix=matrix.load(config.coupling, blocks, other),
    )
    for block in range(blocks.count):
        assert not resume.block_done(directory, blocks, block)
        coupler.write(coupler.solve(block))
        assert resume.block_done(directory, blocks, block)
    return _finish(config, directory, blocks, target, None, other)

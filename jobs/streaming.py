"""A coupling job and a training job at once, on one cluster: training reads the shards as they come.

Training takes its workers first, couplings what is left of the cluster. Both go on where they were when the same job is
run again, and neither depends on how fast the other is: the first epoch reads the shards in the order of their numbers.
"""

import _thread
from threading import Event, Thread
from typing import Any

from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.progress import LOOK_EVERY
from flowpairs.pipeline.couple import Beside, begin, carry_out
from flowpairs.pipeline.store.format import Index
from flowpairs.training.run import directory


def stream(config: StreamConfig) -> tuple[Index, dict[str, Any]]:
    """Couple and train to the end of both; the index of the pairs and the summary of train.json.

    Raises:
        InputError, JobError: as either job; the other one has been stopped then, too.
    """
    workers = config.train.cluster.workers
    bundle = {"CPU": 1.0} | ({"GPU": 1.0} if config.train.cluster.gpus == 1 else {})
    job = begin(config.couple, [bundle] * workers if isinstance(workers, int) else [])
    from flowpairs.training.train import train

    if isinstance(job, Index):
        return job, train(config.train)
    directory.check_run(config.train)
    from flowpairs.pipeline.cluster.connect import placements
    from flowpairs.training.run.workers import worker_shape

    shape = worker_shape(config.train.cluster, config.couple.cluster)
    before, trained, stop = placements().keys(), Event(), Event()
    index: list[Index] = []
    failures: list[BaseException] = []

    def couple() -> None:
        """Wait until training has its workers, then couple on the rest."""
        try:
            while not (new := [held for name, held in placements().items() if name not in before]):
                if trained.wait(LOOK_EVERY):
                    break
            taken = {} if trained.is_set() else new[0]
            index.append(carry_out(job, beside=Beside(taken, stop)))
        except BaseException as error:
            if not stop.is_set():
                failures.append(error)
                _thread.interrupt_main()  # ends Ray Train as Ctrl-C does

    coupling = Thread(target=couple, name="coupling", daemon=True)
    coupling.start()
    try:
        summary = train(config.train, shape)
        trained.set()
        coupling.join()
    except BaseException:
        stop.set()
        trained.set()
        coupling.join()
        if failures:
            raise failures[0] from None
        raise
    return index[0], summary

"""Joining or starting Ray."""

import atexit
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence

import ray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.progress import working
from flowpairs.pipeline.base.signals import handlers_kept
from flowpairs.pipeline.cluster.shapes import fit, nodes
from flowpairs.pipeline.config import ClusterConfig

PATIENCE = 10.0  # seconds in which the head of a cluster has to answer


def connect(config: ClusterConfig | None = None, beside: Sequence[dict[str, float]] = ()) -> None:
    """Join the cluster of RAY_ADDRESS where it is set, else start Ray on this machine. A second call changes nothing.

    Args:
        config: config of the actors to request from an autoscaler; its `scale_seconds` says how long to wait for nodes.
        beside: further bundles to request, each as a dictionary of Ray's resources.

    Raises:
        InputError: RAY_ADDRESS is not the address of a cluster that answers, or Ray cannot start on this machine.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if local:  # a cluster that only this process uses: Ray's warnings about its token do not matter
        _keep_token_in_memory()
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    else:
        check_address(address)
    try:
        with handlers_kept(), working("starting Ray" if local else f"joining the cluster at {address}"):
            ray.init(
                address=address,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except Exception as error:  # ConnectionError, another version of Ray; a bare one where its start takes too long
        raise _refused(address, error) from error
    if config is not None and config.scale_seconds:
        _scale(config, list(beside))


def _keep_token_in_memory() -> None:
    """Give Ray a token by the environment where it could not write its own to the home directory."""
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is none
    if not given and not os.access(home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check_address(address: str) -> None:
    """Refuse a RAY_ADDRESS that takes no drivers or where no cluster answers, which Ray itself tries for minutes.

    Args:
        address: "auto" or HOST:PORT, else it is refused.

    Raises:
        InputError: as said.
    """
    where = f"RAY_ADDRESS={address!r}"
    if address.startswith(("http://", "https://")):
        raise InputError(f"{where}: takes jobs only; use `flowpairs submit`, or unset RAY_ADDRESS to run here")
    if address.startswith("ray://"):
        raise InputError(
            f"{where}: a client of Ray cannot run this; use `flowpairs submit` with the dashboard's http:// address, "
            "or run on a node of the cluster with RAY_ADDRESS=auto"
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"{where}: no address; give HOST:PORT of a head, auto, or unset it to run here")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as peer:
            peer.settimeout(PATIENCE)
            speaks = _speaks_grpc(peer)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(
            f"{where}: nothing answers there ({reason}); start that cluster, mend the address, or unset it to run here"
        ) from error
    if not speaks:
        raise InputError(f"{where}: what answers there is no head of Ray; mend the address, or unset it to run here")


def _speaks_grpc(peer: socket.socket) -> bool:
    """Return whether a peer answers the preface of HTTP/2 with its settings, as every gRPC server does."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return True  # what it speaks is behind TLS
    peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    frame = b""
    while len(frame) < 4:
        more = peer.recv(4 - len(frame))
        if not more:
            return False
        frame += more
    return frame[3] == 4


def _refused(address: str, error: Exception) -> InputError:
    """Say in one sentence why Ray did not start, or why the cluster did not take this process."""
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    if address != "local":
        return InputError(f"RAY_ADDRESS={address!r}: {reason}; mend the address, or unset it to run here")
    remedy = "set RAY_TMPDIR to a short path on a local disk that can be written"
    if "timed out" in reason:
        remedy = "run the same command again when the machine is less busy"
    elif "AF_UNIX" not in reason and isinstance(error, OSError) and error.filename:
        home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is none
        remedy = "set HOME to a directory that can be written" if str(error.filename).startswith(home) else remedy
    return InputError(
        f"Ray cannot start on this machine: {reason}; {remedy}, or run without: "
        "cluster.actors=0, in training cluster.workers=0"
    )


def _scale(config: ClusterConfig, beside: list[dict[str, float]]) -> None:
    """Request from the autoscaler what a job takes, and wait for it; the nodes may go when this process ends.

    Where they do not come in time, `actor_shape` reports which nodes there are.
    """
    from ray.autoscaler.sdk import request_resources

    actors, gpus = config.actors, config.gpus_per_actor
    assert actors != "auto"
    assert gpus != "auto"
    cpus = 1 if config.cpus_per_actor == "auto" else config.cpus_per_actor
    each = {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})
    atexit.register(request_resources, bundles=[])  # a request outlives its process; this runs before Ray's shutdown
    bundles = [each] * actors + beside
    request_resources(bundles=bundles)
    total = {kind: sum(bundle.get(kind, 0) for bundle in bundles) for kind in ("CPU", "GPU")}

    def there() -> bool:
        have = ray.cluster_resources()
        all_of_it = all(have.get(kind, 0) >= count for kind, count in total.items())
        return all_of_it and fit(*nodes(), cpus, gpus) >= actors

    deadline = time.monotonic() + config.scale_seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(1)

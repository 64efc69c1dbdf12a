"""What the next block needs, made in a thread of its own while this one is solved: one block ahead and never more."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made", bound="tuple[Tensor | None, ...]")


class Ahead(Generic[Made]):
    """Makes tensors by number, on request before they are asked for.

    On a GPU a thread works on a stream of its own, so that its kernels run where those of the solve leave room.

    Args:
        make: makes the tensors of a number, the same whenever and in whichever thread.
        device: "cpu" or "cuda", where they lie.
    """

    def __init__(self, make: Callable[[int], Made], device: str) -> None:
        self._make, self._on_gpu = make, device == "cuda"
        self._thread: ThreadPoolExecutor | None = None
        self._begun: tuple[int, Future[Made]] | None = None

    def begin(self, number: int) -> None:
        """Begin to make what will be asked for next, once `take` has given what was begun before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun = number, self._thread.submit(self._apart if self._on_gpu else self._make, number)

    def take(self, number: int) -> Made:
        """Return what was begun, waiting for it, or else make it here; what was begun for another number is dropped.

        Raises: whatever making it raised.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return self._make(number)
        other, future = begun
        if other != number:
            future.cancel()
            del begun, future  # two blocks may not lie in memory beside the one that is made now
            return self._make(number)
        made = future.result()
        if self._on_gpu:
            import torch

            for tensor in made:
                if tensor is not None:
                    tensor.record_stream(torch.cuda.current_stream())  # else its memory goes back to the other stream
        return made

    def _apart(self, number: int) -> Made:
        """Make it on a stream of this thread, and wait until it is there."""
        import torch

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            made = self._make(number)
        stream.synchronize()
        return made

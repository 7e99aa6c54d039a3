"""anomalib's side of the comparison: fits and scores with its PyTorch models, in its environment.

Run by its path with an interpreter that has anomalib: `PYTHON anomalib_worker.py CORES`. This
package and JAX are not there; requests come as `turns.serve` reads them. Models are those that
anomalib makes, without its trainer, so no time of a trainer is counted. Nothing is downloaded.
"""

import importlib.metadata
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from turns import peak_mib, seconds_of, serve, use_cores  # its folder is on sys.path

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

_START = time.perf_counter()
import timm  # noqa: E402
import torch  # noqa: E402
from anomalib.models import AnomalyDINO, Padim, Patchcore  # noqa: E402
from torch import nn  # noqa: E402

IMPORTED = {"import_seconds": time.perf_counter() - _START, "import_mib": peak_mib()}
VERSIONS = ("anomalib", "torch", "timm")
CALIBRATION_IMAGES = 4


def hello() -> dict[str, Any]:
    torch.set_num_threads(int(sys.argv[1]))
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {**IMPORTED, "versions": versions, "threads": torch.get_num_threads()}


class Side:
    """A model, the images, and what the last scoring valued on its grid."""

    def __init__(self) -> None:
        self.model: Any = None
        self.normalize: Any = None
        self.images: dict[str, np.ndarray] = {}
        self.options: dict[str, Any] = {}
        self.grid: list[torch.Tensor] = []

    def begin(
        self, method: str, options: dict[str, Any], train: str, test: str, batch: int
    ) -> dict[str, Any]:
        """Makes the model without weights of others. train, test: files of uint8 [N, H, W, 3]."""
        self.images = {"train": np.load(train), "test": np.load(test)}
        self.options, self.batch = options, batch
        size = self.images["train"].shape[1:3]
        module = MAKE[method](options, size)
        self.model = module.model
        self.normalize = module.configure_pre_processor(size).transform.transforms[-1]
        encoder = self.encoder()
        if hasattr(encoder, "set_input_size"):
            encoder.set_input_size(size)  # so that no image's scoring resizes the position table
        self._watch_grid(method)
        return {"masking": bool(getattr(self.model, "masking", False))}

    def encoder(self) -> nn.Module:
        found = getattr(self.model, "feature_extractor", None) or self.model.feature_encoder
        return found.feature_extractor

    def _watch_grid(self, method: str) -> None:
        """Keeps the distances of patches, before they are enlarged and smoothed."""
        generator = self.model.anomaly_map_generator
        name = "up_sample" if method == "padim" else "compute_anomaly_map"
        original = getattr(generator, name)

        def watched(distances: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            self.grid.append(distances)
            return original(distances, *rest, **named)

        setattr(generator, name, watched)

    def make_weights(self, out: str) -> dict[str, Any]:
        """Draws the encoder's weights and writes them: a state dict as .npz, under timm's names."""
        torch.manual_seed(0)
        randomize(self.encoder(), self.pixels(self.images["train"][:CALIBRATION_IMAGES]))
        save(out, {n: x.numpy() for n, x in self.encoder().state_dict().items()})
        return {}

    def load_weights(self, file: str) -> dict[str, Any]:
        """Reads a state dict of the encoder; position tables have the images' grid already."""
        with np.load(file) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        encoder = self.encoder()
        wanted = encoder.state_dict()
        found = {name: state[name].reshape(wanted[name].shape) for name in wanted if name in state}
        missing = [n for n in wanted if n not in found and "num_batches_tracked" not in n]
        if missing:
            raise ValueError(f"{len(missing)} arrays are missing, as {missing[0]}")
        encoder.load_state_dict(found, strict=False)
        return {"left_out": sorted(set(state) - set(wanted))}

    def choose(self, features: list[int]) -> dict[str, Any]:
        """Sets PaDiM's choice of features."""
        self.model.idx = torch.tensor(features)
        return {}

    def pixels(self, images: np.ndarray) -> torch.Tensor:
        """Returns standardized pixels [B, 3, H, W] of uint8 [B, H, W, 3]."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return self.normalize(tensor.contiguous().float() / 255)

    def fit(self) -> dict[str, Any]:
        """Fits to the training images; seconds of the features and of what follows them."""
        model, images = self.model, self.images["train"]
        torch.manual_seed(0)
        model.train()

        def gather() -> None:
            for start in range(0, len(images), self.batch):
                model(self.pixels(images[start : start + self.batch]))

        def solve() -> None:
            ratio = self.options.get("ratio")
            model.fit() if ratio is None else model.subsample_embedding(ratio)

        with torch.no_grad():
            _, features = seconds_of(gather)
            _, solving = seconds_of(solve)
        return {"features": features, "solve": solving}

    def score(self, batch: int) -> dict[str, Any]:
        """Scores the test images in batches; 'seconds' has those of each batch."""
        found = [self._scored(batch, start)[1] for start in range(0, self._count(batch), batch)]
        return {"seconds": found}

    def _count(self, batch: int) -> int:
        return len(self.images["test"]) // batch * batch

    def _scored(self, batch: int, start: int) -> tuple[Any, dict[str, float]]:
        self.model.eval()
        self.grid.clear()
        images = self.images["test"][start : start + batch]
        with torch.inference_mode():
            return seconds_of(lambda: self.model(self.pixels(images)))

    def values(self, out: str) -> dict[str, Any]:
        """Writes scores [N], distances of patches [N, h, w], maps [N, H, W], and the bank if there
        is one."""
        parts: dict[str, list[np.ndarray]] = {"scores": [], "distances": [], "maps": []}
        for start in range(len(self.images["test"])):
            result, _ = self._scored(1, start)
            parts["scores"].append(result.pred_score.reshape(-1).numpy())
            parts["distances"].append(self.grid[0][:, 0].numpy())
            parts["maps"].append(result.anomaly_map[:, 0].numpy())
        arrays = {name: np.concatenate(rows) for name, rows in parts.items()}
        bank = getattr(self.model, "memory_bank", None)
        if isinstance(bank, torch.Tensor):
            arrays["bank"] = bank.numpy()
        save(out, arrays)
        return {"peak_mib": peak_mib()}


def save(file: str, arrays: dict[str, Any]) -> None:
    np.savez(file, **arrays)


def _anomaly_dino(options: dict[str, Any], size: tuple[int, int]) -> Any:
    original = timm.create_model
    # The model asks for pretrained weights, which would be downloaded.
    timm.create_model = lambda *names, **rest: original(*names, **{**rest, "pretrained": False})
    try:
        return AnomalyDINO(encoder_name=options["backbone"])
    finally:
        timm.create_model = original


def _patchcore(options: dict[str, Any], size: tuple[int, int]) -> Any:
    return Patchcore(backbone=options["backbone"], layers=options["layers"], pre_trained=False)


def _padim(options: dict[str, Any], size: tuple[int, int]) -> Any:
    names = ("backbone", "layers", "n_features")
    return Padim(pre_trained=False, **{name: options[name] for name in names})


MAKE: dict[str, Callable[[dict[str, Any], tuple[int, int]], Any]] = {
    "anomaly_dino": _anomaly_dino,
    "patchcore": _patchcore,
    "padim": _padim,
}


def randomize(encoder: nn.Module, pixels: torch.Tensor) -> None:
    """Draws norms, biases and LayerScale, which start at trivial values, so that every weight
    counts, and takes the running statistics of batch norms from images, so that features keep
    their scale."""
    norms = []
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                norms.append(module)
                module.momentum = None  # plain means
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.1)
            elif isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.1)
            if hasattr(module, "gamma"):
                module.gamma.uniform_(0.5, 1.0)
        for name, parameter in encoder.named_parameters():
            if name.endswith(("pos_embed", "cls_token")):
                parameter.normal_(0, 0.2)
        if norms:
            encoder.train()
            encoder(pixels)
            encoder.eval()


if __name__ == "__main__":
    side = Side()
    asked = ("begin", "make_weights", "load_weights", "choose", "fit", "score", "values")
    sys.exit(serve({"hello": hello} | {name: getattr(side, name) for name in asked}))

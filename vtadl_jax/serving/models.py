"""Opens the runs that a service scores with, each under a name."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vtadl_jax.errors import UserError, printable
from vtadl_jax.evaluation.calibration import Calibration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Model(Protocol):
    """What a service needs of `evaluation.predictor.Predictor`."""

    batch_size: int
    channels: int
    threshold: float
    calibration: Calibration

    def take_in(self, image: Any) -> tuple[Any, Any]: ...

    def predict_batch(self, images: Sequence[Any]) -> Iterator[Any]: ...

    def warm_up(self) -> Any: ...


def open_model(path: Path, max_batch: int = 0) -> Model:
    """Loads the run in a workdir, or the file of `python -m vtadl_jax.export`.

    max_batch: number of images that are scored together; 0 is 1 on a CPU, 8 on other devices.
    Raises UserError for a path that holds no trained run and no such file.
    """
    import jax

    from vtadl_jax.evaluation.predictor import Predictor

    size = max_batch or (1 if jax.default_backend() == "cpu" else 8)
    opening = Predictor.from_file if path.is_file() else Predictor.from_workdir
    return opening(path, batch_size=size)


def parse_models(texts: Sequence[str]) -> dict[str, Path]:
    """Returns the paths of `[NAME=]PATH` arguments by name, in their order.

    Without a name, that of the folder or file is taken. Raises UserError for no argument, a name
    that does not fit in an address, and a name that is given twice.
    """
    if not texts:
        raise UserError("no --model: give --model [NAME=]PATH, a run's workdir or exported file")
    found: dict[str, Path] = {}
    for text in texts:
        name, path = _split(text)
        if not _NAME.fullmatch(name):
            raise UserError(
                f"--model {printable(text)}: {printable(name)!r} is no name for an address: give "
                f"--model NAME=PATH with a NAME of letters, digits, '.', '_' and '-'"
            )
        if name in found:
            raise UserError(
                f"--model {printable(text)}: {name} is also {printable(found[name])}: give "
                f"--model NAME=PATH with another NAME"
            )
        found[name] = path
    return found


def _split(text: str) -> tuple[str, Path]:
    name, equals, rest = text.partition("=")
    if equals and "/" not in name and not Path(text).expanduser().exists():
        return name, Path(rest).expanduser()
    path = Path(text).expanduser()
    return (path.resolve().stem if path.is_file() else path.resolve().name), path


def open_models(
    paths: Mapping[str, Path], max_batch: int, opening: Callable[..., Model] | None = None
) -> dict[str, Model]:
    """Opens each model by name. Raises UserError, naming the model that can't be opened."""
    opening = opening or open_model
    found = {}
    for name, path in paths.items():
        try:
            found[name] = opening(path, max_batch)
        except UserError as error:
            raise UserError(f"--model {name}: {error}") from error
    return found

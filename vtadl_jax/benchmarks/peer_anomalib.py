"""Compares our memory bank and Gaussians with anomalib's: the same images, weights and cores.

    python3.11 -m venv E && E/bin/pip install anomalib==2.7.0
    python -m vtadl_jax.benchmarks.peer_anomalib --python E/bin/python [--only padim,patchcore]
        [--images DIR [--test DIR]] [--weights DIR] [--json OUT] [--markdown OUT]

Methods: anomaly_dino, patchcore and padim, each fitted and scored by anomalib's models and by ours,
set to do the same work. The sides are processes that take turns on the same cores. anomalib needs
an environment of its own; nothing is downloaded. Without --images, parts are drawn; without a file
NETWORK.safetensors, .pth or .npz in the folder of --weights, an encoder's weights are random, the
same on both sides. Times leave out imports, decoding and compilation, which are told apart.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vtadl_jax.benchmarks.kernels import processor
from vtadl_jax.benchmarks.measures import anomalib, progress
from vtadl_jax.benchmarks.measures.anomalib_inputs import find_images, read_image, read_weights
from vtadl_jax.benchmarks.measures.processes import Worker
from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.errors import UserError

RECIPE = "python3.11 -m venv E && E/bin/pip install anomalib==2.7.0, then --python E/bin/python"
OURS = (sys.executable, "-m", "vtadl_jax.benchmarks.measures.beside_anomalib")
PEER = Path(__file__).parent / "peers" / "anomalib_worker.py"
NAMES = tuple(method.name for method in anomalib.METHODS)
COUNTS = ("train", "test_images", "batch", "size", "repeats", "cores")


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes JSON and Markdown; returns the exit code."""
    args = _arguments(argv)
    try:
        for path in (args.json, args.markdown):
            check_json(path)
        results = run(args, show=print)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(results, args.json)
    if args.markdown:
        Path(args.markdown).write_text(markdown(results) + "\n", encoding="utf-8")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vtadl_jax.benchmarks.peer_anomalib")
    add = parser.add_argument
    add("--python", default="", metavar="PATH", help="an interpreter that has anomalib")
    add("--only", default=",".join(NAMES), metavar="NAMES", help=f"of {','.join(NAMES)}")
    add("--images", default="", metavar="DIR", help="good images; without it, parts are drawn")
    add("--test", default="", metavar="DIR", help="images to score (default: further good ones)")
    add("--weights", default="", metavar="DIR", help="files of encoders, as `fetch --to` writes")
    add("--train", type=int, default=16, metavar="N", help="good images (default: 16)")
    add("--test-images", type=int, default=8, metavar="N", help="scored (default: 8)")
    add("--batch", type=int, default=8, metavar="N", help="images a batch (default: 8)")
    add("--size", type=int, default=256, help="side of an image, rounded down to what fits")
    add("--ratio", type=float, default=0.1, help="of patchcore's patches in the bank (0.1)")
    add("--repeats", type=int, default=3, help="turns of each side (default: 3)")
    add("--cores", type=int, default=os.cpu_count() or 1, help="of each side (default: all)")
    add("--json", default="", metavar="OUT", help="write the results here")
    add("--markdown", default="", metavar="OUT", help="write the table here")
    args = parser.parse_args(argv)
    for name in COUNTS:
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} must be at least 1, got {getattr(args, name)}")
    if args.train < 2 or args.test_images < args.batch:
        parser.error("--train must be at least 2, --test-images at least --batch")
    if not 0 < args.ratio <= 1:
        parser.error(f"--ratio must be above 0 and at most 1, got {args.ratio:g}")
    for name in args.only.split(","):
        if name not in NAMES:
            parser.error(f"--only {name}: known are {','.join(NAMES)}")
    return args


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the chosen methods and prints each table as soon as it is complete.

    Returns {environment, methods: as `anomalib.measure`}. Raises UserError if there is no
    interpreter with anomalib, and for images and weights that can't be used.
    """
    if not args.python:
        raise UserError(f"no --python with anomalib: {RECIPE}")
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder)
        versions = _versions(args)
        train, test = find_images(
            args.images, args.test, args.train, args.test_images, space, args.size
        )
        environment = {
            "processor": processor(),
            "cores": args.cores,
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "versions": versions,
            "images": args.images or "drawn",
        }
        show(describe(environment, args))
        found = []
        for method in anomalib.METHODS:
            if method.name in args.only.split(","):
                found.append(_measured(method, args, (train, test), space / method.name))
                show("\n" + table(found[-1]))
    progress("done")
    return {"environment": environment, "methods": found}


def _versions(args: argparse.Namespace) -> dict[str, str]:
    """Returns the peer's versions. Raises UserError, with the recipe, if anomalib is missing."""
    with _started(args, "anomalib") as peer:
        try:
            return peer.ask("hello")["versions"]
        except UserError as error:
            raise UserError(f"{error}: {RECIPE}") from error


def _started(args: argparse.Namespace, side: str) -> Worker:
    if side == "ours":
        return Worker("our process", OURS, args.cores)
    return Worker(f"anomalib in {args.python}", (args.python, str(PEER)), args.cores)


def _measured(
    method: anomalib.Method,
    args: argparse.Namespace,
    images: tuple[list[Path], list[Path]],
    space: Path,
) -> dict[str, Any]:
    """Prepares one method's files in a new folder `space` and measures it in new processes."""
    space.mkdir()
    side = args.size // method.multiple * method.multiple
    if side == 0:
        raise UserError(f"--size {args.size}: {method.network} needs {method.multiple} or more")
    files = {name: space / f"{name}.npz" for name in ("weights", "ours", "anomalib", "shared")}
    start = time.perf_counter()
    pixels = [np.stack([read_image(path, side) for path in paths]) for paths in images]
    seconds = time.perf_counter() - start
    for name, array in zip(("train", "test"), pixels, strict=True):
        files[name] = space / f"{name}.npy"
        np.save(files[name], array)
    grid = side // method.stride
    arrays = read_weights(args.weights, method.network, (grid, grid))
    if arrays:
        np.savez(files["weights"], **arrays)  # type: ignore[arg-type]
    sizes = anomalib.Sizes(args.train, grid * grid, args.ratio)
    with contextlib.ExitStack() as stack:
        workers = {n: stack.enter_context(_started(args, n)) for n in ("ours", "anomalib")}
        measured = anomalib.measure(method, workers, files, sizes, args.batch, args.repeats)
    decoding = seconds / sum(map(len, pixels))
    return measured | {"image_size": [side, side], "decoding_seconds_an_image": decoding}


def describe(environment: dict[str, Any], args: argparse.Namespace) -> str:
    """Returns what the results depend on, in one or two lines."""
    versions = ", ".join(f"{name} {value}" for name, value in environment["versions"].items())
    text = (
        f"{environment['cores']} cores, {environment['processor']}; {versions}; "
        f"{args.train} images to fit to, {args.test_images} to score ({environment['images']})"
    )
    if (load := environment["load_average"]) > 0.5:
        text += f"\nThe machine is not idle (load {load:.1f}): its times are not to be kept"
    return text


ROWS = (  # title, key, factor, format
    ("fit, s", "fit_seconds", 1, ".2f"),
    ("  features, s", "features_seconds", 1, ".2f"),
    ("  density or bank, s", "solve_seconds", 1, ".2f"),
    ("  CPU, s", "fit_cpu_seconds", 1, ".2f"),
    ("an image, ms", "image_seconds", 1e3, ".1f"),
    ("  CPU, ms", "image_cpu_seconds", 1e3, ".1f"),
    ("an image in a batch, ms", "image_in_batch_seconds", 1e3, ".1f"),
    ("peak memory, MiB", "peak_mib", 1, ".0f"),
    ("  imports alone, MiB", "import_mib", 1, ".0f"),
    ("imports, s", "import_seconds", 1, ".1f"),
    ("compilation, s", "compiling_seconds", 1, ".1f"),
)


def cells(measured: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Returns rows of title, ours, anomalib's and anomalib's / ours."""
    ours, theirs = measured["sides"]["ours"], measured["sides"]["anomalib"]
    rows = []
    for title, key, factor, spec in ROWS:
        a, b = ours[key] * factor, theirs[key] * factor
        ratio = f"{b / a:.2f}" if a > 0 and b > 0 else ""
        rows.append((title, format(a, spec), format(b, spec), ratio))
    return rows


def agreed(measured: dict[str, Any]) -> str:
    """Returns one line on how well the results agree, and on what was done once for both."""
    found = measured["agreement"]
    titles = {
        "distances": "patches",
        "own_banks": "patches, each side with its own bank",
        "maps": "maps",
        "maps_inside": "maps without edges",
        "scores": "scores of images",
    }
    parts = [
        f"{title} {found[name]['difference']:.0e} (correlation {found[name]['correlation']:.4f})"
        for name, title in titles.items()
        if name in found
    ]
    verdict = "" if measured["same"] else "NOT THE SAME NUMBERS: "
    decoding = f"{measured['decoding_seconds_an_image'] * 1e3:.1f} ms an image"
    return f"{verdict}relative differences: {', '.join(parts)}; decoding, once for both: {decoding}"


def heading(measured: dict[str, Any]) -> str:
    sizes, (height, width) = measured["sizes"], measured["image_size"]
    return (
        f"{measured['method']}, {measured['network']} with weights {measured['weights']}, "
        f"{height} × {width}, {sizes['train'] * sizes['patches']} patches: {measured['notes']}"
    )


def table(measured: dict[str, Any]) -> str:
    """Returns a method's figures as text."""
    lines = [heading(measured), f"  {'':26}{'ours':>10}{'anomalib':>10}{'ratio':>8}"]
    lines += [f"  {row[0]:26}{row[1]:>10}{row[2]:>10}{row[3]:>8}" for row in cells(measured)]
    return "\n".join([*lines, f"  {agreed(measured)}"])


def markdown(results: dict[str, Any]) -> str:
    """Returns all tables in Markdown."""
    parts = []
    for measured in results["methods"]:
        rows = [("", "ours", "anomalib", "ratio"), *cells(measured)]
        lines = ["| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows]
        lines.insert(1, "|---|---:|---:|---:|")
        parts.append(
            "\n".join([f"**{heading(measured)}**", "", *lines, "", agreed(measured) + "."])
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

"""The programs whose facts are tested, compiled once a session, and their golden summaries.

python -m tests.compiling.programs     # compiles them and renews these versions' file in golden/
"""

import functools
import json
import tempfile
from pathlib import Path

from tests.factory import tiny_config, with_fields
from vtadl_jax.compiling.reading import read_step
from vtadl_jax.compiling.topology import find_target
from vtadl_jax.configs import mvtec
from vtadl_jax.experiment import parse
from vtadl_jax.runtime.versions import compiler_versions

GOLDENS = Path(__file__).with_name("golden")  # a file for each pair of jax and libtpu


def golden_file() -> Path:
    """Returns the golden summaries' file of the installed jax and libtpu; it may not exist yet."""
    versions = compiler_versions()
    return GOLDENS / f"jax-{versions['jax']}-libtpu-{versions.get('libtpu', 'none')}.json"


RENEW = "python -m tests.compiling.programs"


def paper_config():
    """Returns the config for a TPU: bfloat16, with rematerialized blocks."""
    return with_fields(parse(mvtec.get_config()), dtype="bfloat16", model__vit__remat=True)


def device_config():
    """Returns a small config with pmap, and batch statistics per device."""
    return tiny_config(
        dtype="bfloat16", train__parallel="pmap", model__decoder__norm_statistics="device"
    )


PROGRAMS = {
    "paper-v5e-2x2": (paper_config, "v5e:2x2"),
    "device-statistics-v5e-2x2": (device_config, "v5e:2x2"),
}


@functools.cache
def compiled(name: str) -> tuple[dict, str]:
    """Returns (reading, optimized program's text) of the train step, 8 images per chip."""
    make_config, topology = PROGRAMS[name]
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "step"
        reading = read_step(make_config(), name, find_target(topology), "train", 8, dump=dump)
        return reading, dump.with_name("step.after.hlo.txt").read_text(encoding="utf-8")


def summary(reading: dict) -> dict:
    """Returns the summary that is compared with the golden one: numbers, no program text."""
    kinds = [c["kind"] for c in reading["collectives"]]
    return {
        "cycles": reading["cycles"],
        "modules": {
            name: sum(ways.values())
            for name, ways in reading["modules"].items()
            if sum(ways.values()) > 0.01 * reading["cycles"]["total"]
        },
        "collectives": {
            "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            **reading["collective_totals"],
        },
        "temporary_bytes": reading["memory"]["temporary"],
        "fusions": reading["counts"]["fusion"],
        "aliased_outputs": reading["aliased_outputs"],
    }


def main() -> None:
    summaries = {name: summary(compiled(name)[0]) for name in PROGRAMS}
    golden = {"renew": RENEW, "versions": compiler_versions(), "programs": summaries}
    GOLDENS.mkdir(exist_ok=True)
    golden_file().write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {golden_file()}")


if __name__ == "__main__":
    main()

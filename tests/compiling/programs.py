"""The programs whose facts are tested, compiled once a session, and their golden summaries.

python -m tests.compiling.programs     # compiles them again and renews golden.json
"""

import functools
import json
import tempfile
from pathlib import Path

from configs import mvtec
from tests.factory import tiny_config
from vtadl_jax.compiling.reading import read_step
from vtadl_jax.compiling.topology import find_target, versions

GOLDEN = Path(__file__).with_name("golden.json")
RENEW = "python -m tests.compiling.programs"


def paper_config():
    """As a TPU is to run it: bfloat16, blocks recomputed."""
    config = mvtec.get_config()
    config.dtype = "bfloat16"
    config.model.remat = True
    return config


def device_config():
    """Small, one device's program mapped over all, each with its own batch statistics."""
    return tiny_config(
        dtype="bfloat16", train__parallel="pmap", model__decoder__norm_statistics="device"
    )


PROGRAMS = {
    "paper-v5e-2x2": (paper_config, "v5e:2x2"),
    "device-statistics-v5e-2x2": (device_config, "v5e:2x2"),
}


@functools.cache
def compiled(name: str) -> tuple[dict, str]:
    """(reading, the optimised program's text) of the train step, 8 images a chip."""
    make_config, topology = PROGRAMS[name]
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "step"
        reading = read_step(make_config(), name, find_target(topology), "train", 8, dump=dump)
        return reading, dump.with_name("step.after.hlo.txt").read_text(encoding="utf-8")


def summary(reading: dict) -> dict:
    """What is compared with the golden one: numbers, no text of the program."""
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
    golden = {"renew": RENEW, "versions": versions(), "programs": summaries}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")


if __name__ == "__main__":
    main()

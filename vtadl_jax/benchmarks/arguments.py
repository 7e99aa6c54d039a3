"""The command line that benchmarks beside PyTorch share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vtadl_jax.benchmarks.timing import check_json, write_json
from vtadl_jax.errors import UserError

Run = Callable[[list[str], argparse.Namespace], dict[str, Any]]


def measure_chosen(
    program: str, names: Sequence[str], flag: tuple[str, str], run: Run, argv: list[str] | None
) -> int:
    """Runs the measures that --only names, --repeats times, and writes --json; returns the exit
    code.

    program: module of the command. flag: name and help of its own switch. run: (chosen, arguments)
    → results.
    """
    parser, every = argparse.ArgumentParser(prog=f"python -m {program}"), ",".join(names)
    parser.add_argument("--only", default=every, metavar="NAMES", help=f"of {every}")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--json", default="", metavar="OUT", help="write the results here")
    parser.add_argument(flag[0], action="store_true", help=flag[1])
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    chosen = args.only.split(",")
    for name in chosen:
        if name not in names:
            parser.error(f"--only {name}: known are {every}")
    try:
        check_json(args.json)
        results = run(chosen, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(results, args.json)
    return 0

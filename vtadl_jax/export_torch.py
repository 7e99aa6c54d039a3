"""The name of `export --format torch` in version 0.1, for scripts that call it: the same flags."""

import sys

from vtadl_jax.export import __main__ as export
from vtadl_jax.runtime.console import say


def main(argv: list[str]) -> int:
    say("note: python -m vtadl_jax.export_torch is called python -m vtadl_jax.export now")
    return export.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

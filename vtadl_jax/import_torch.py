"""The name of `import_weights` in version 0.1, for scripts that call it: the same flags."""

import sys

from vtadl_jax import import_weights
from vtadl_jax.runtime.console import say


def main(argv: list[str]) -> int:
    say("note: python -m vtadl_jax.import_torch is called python -m vtadl_jax.import_weights now")
    return import_weights.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

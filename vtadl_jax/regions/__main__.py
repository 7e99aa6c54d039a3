"""Opens a page to draw where images are inspected, and writes the polygons as a JSON file.

python -m vtadl_jax.regions --image part.png --output regions.json

Open the address that it prints in a browser on this machine. Draw polygons or rectangles of what to
inspect or to ignore, and save: the file has LabelMe's form, for --config.data.regions=regions.json.
A file that is there already is opened to go on with it. Ctrl-C, or the page's button, ends it.
Exit codes: 0 ended, 2 a mistake the user can fix.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.errors import UserError, printable
from vtadl_jax.regions.drawing import open_drawing
from vtadl_jax.regions.server import make_server
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_IMAGE = _define("image", "", "Image to draw on: one of the set, at its full size.")
_OUTPUT = _define("output", "regions.json", "JSON file to write; if it is there, to go on with.")
_PORT = flags.DEFINE_integer(
    "port", 0, "Port on this machine (127.0.0.1); 0: a free one.", 0, 65535, flag_values=FLAGS
)


def run() -> int:
    """Serves the page until it is closed."""
    if not _IMAGE.value:
        raise UserError("no --image: give an image of the set to draw on")
    drawing = open_drawing(Path(_IMAGE.value).expanduser(), Path(_OUTPUT.value).expanduser())
    if drawing.shapes:
        say(f"going on with {len(drawing.shapes)} polygons of {printable(str(drawing.output))}")
    server = make_server(drawing, _PORT.value)
    say(f"draw at {server.address} (this machine only); Ctrl-C ends it")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    if drawing.saved:
        where = printable(str(drawing.output))
        say(f"{where}: use it with --config.data.regions={where}")
    else:
        say("nothing was saved")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "what was saved is in --output")


if __name__ == "__main__":
    sys.exit(main(sys.argv))

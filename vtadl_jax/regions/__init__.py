"""A local page to draw where images are inspected (`data.regions`)."""

"""Report of `prepare --check` on a folder of images or records."""

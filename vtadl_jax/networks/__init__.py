"""Networks, and models fitted on the host, one file each: no detectors, file I/O or optimizer."""

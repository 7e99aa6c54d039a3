"""Loading a trained run: nothing is printed, and the logging of the caller stays as it is."""

import logging

from vtadl_jax import Predictor, load_run


def test_loading_warns_of_nothing(finished, caplog):
    _, workdir, _ = finished
    logger = logging.getLogger("absl")
    before = list(logger.handlers), list(logger.filters), logging.root.level
    with caplog.at_level(logging.WARNING, logger="absl"):
        load_run(workdir)
        Predictor.from_workdir(workdir)
        logger.warning("Given directory is read only")  # of another program
    assert [record.getMessage() for record in caplog.records] == ["Given directory is read only"]
    assert (logger.handlers, logger.filters, logging.root.level) == before

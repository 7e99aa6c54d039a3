"""Tells when the images that a service scores stop to be like the good images of its models.

`evaluation/drift.py` has the test. A service runs for months: the test starts anew after so many
images of a model, which bounds its memory, and repeats an alarm while the change stays.
"""

import datetime
import threading
from collections.abc import Callable, Mapping
from typing import Any

from vtadl_jax.evaluation.drift import DriftMonitor
from vtadl_jax.runtime.console import say
from vtadl_jax.serving.logs import log
from vtadl_jax.serving.models import Model

RESTART = 10_000  # images


class Drift:
    """Follower of the images of each model, in the order of their scores.

    on_alarm: called with the model's name and the quantity of each alarm, which is also told on
    stderr and in the log.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        on_alarm: Callable[[str, str], None] = lambda model, quantity: None,
    ):
        self._models, self._on_alarm, self._lock = models, on_alarm, threading.Lock()
        self._monitors = {name: DriftMonitor(m.calibration) for name, m in models.items()}
        self._times: dict[str, list[datetime.datetime]] = {name: [] for name in models}

    def add(self, model: str, prediction: Any) -> None:
        """Adds an image of a model. Never raises: an image has its score whatever happens here."""
        try:
            self._add(model, prediction)
        except Exception as error:
            log("failed", model=model, error=f"drift: {type(error).__name__}: {error}")

    def _add(self, model: str, prediction: Any) -> None:
        if prediction.description is None or not self._monitors[model].quantities:
            return
        followed = prediction.description, prediction.score, prediction.is_defective
        with self._lock:
            if self._monitors[model].count >= RESTART:
                self._monitors[model] = DriftMonitor(self._models[model].calibration)
                self._times[model] = []
            self._times[model].append(datetime.datetime.now(datetime.UTC))
            alarms = self._monitors[model].add(*followed)
            told = [(alarm, self._times[model][alarm.since]) for alarm in alarms]
        for alarm, since in told:
            text = alarm.sentence(since.isoformat(timespec="seconds"))
            say(f"drift of model {model}: {text}")
            log("drift", model=model, quantity=alarm.quantity, since=since.isoformat(), text=text)
            self._on_alarm(model, alarm.quantity)

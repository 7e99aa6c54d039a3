"""A model without a network, and a service around it, for tests that need no run."""

import io
import threading
import time

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import load_image
from vtadl_jax.evaluation.calibration import Calibration
from vtadl_jax.evaluation.predictor import Intake, Prediction
from vtadl_jax.serving.batching import Batcher
from vtadl_jax.serving.limits import Limits
from vtadl_jax.serving.models import Model
from vtadl_jax.serving.state import Service

CALIBRATION = Calibration(
    step=1,
    terms=("brightness",),
    mean=(0.0,),
    spread=(1.0,),
    weights=(1.0,),
    image_threshold=0.5,
    pixel_threshold=0.75,
    image_false_alarm_rate=0.05,
    pixel_false_alarm_rate=0.01,
    map_low=0.0,
    map_high=1.0,
    num_images=4,
    good_scores=(0.1, 0.2, 0.3, 0.4),
)


class FakeModel:
    """Scores an image by its largest brightness; its map is the brightness of each pixel.

    gate: batches wait until it is set. fault: raised by each batch.
    """

    def __init__(self, batch_size: int = 4, maps: bool = True, seconds: float = 0.0):
        self.batch_size, self.channels, self.threshold = batch_size, 1, 0.5
        self.calibration, self.maps, self.seconds = CALIBRATION, maps, seconds
        self.gate, self.fault = threading.Event(), None
        self.gate.set()
        self.batches: list[int] = []
        self.threads: set[int] = set()

    def take_in(self, image):
        pixels = load_image(image, self.channels)
        return Intake(pixels, pixels.shape), None

    def warm_up(self):
        self.threads.add(threading.get_ident())

    def predict_batch(self, images):
        self.threads.add(threading.get_ident())
        self.batches.append(len(images))
        self.gate.wait(20)
        time.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        for intake in images:
            grey = intake.image.astype(np.float32) / 255
            score = float(grey.max())
            yield Prediction(
                score=float("nan") if intake.map_size == (13, 13) else score,
                threshold=0.5,
                is_defective=score >= 0.5,
                anomaly_map=grey if self.maps else None,
                terms={"brightness": score},
                recon=None,
                p_value=CALIBRATION.p_value(score),
            )


def png(height: int = 6, width: int = 8, value: int = 40, spot: int = 0, kind: str = "PNG"):
    """Returns the file of a grey image, with a brighter spot of 2×3 pixels at (1, 2) if asked."""
    pixels = np.full((height, width), value, np.uint8)
    if spot:
        pixels[1:3, 2:5] = spot
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def make_batcher(*models: Model, max_wait_ms: float = 5.0, threads: int = 4) -> Batcher:
    """Returns a running batcher of models named 'plate', 'gear', …."""
    named = dict(zip(("plate", "gear", "nut"), models, strict=False))
    batcher = Batcher(named, max_wait_ms, threads)
    batcher.start()
    return batcher


def make_service(*models: Model, key: str = "", **limits) -> Service:
    """Returns a ready service."""
    service = Service(Limits(**limits), key)
    service.open(make_batcher(*models))
    return service

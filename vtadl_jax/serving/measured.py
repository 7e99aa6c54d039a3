"""The figures of a service at /metrics, in the text format of Prometheus. Names no image."""

import prometheus_client as prometheus

from vtadl_jax.serving.batching import Scored

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST


class Measured:
    """Counters, gauges and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self._requests = prometheus.Counter(
            "vtadl_requests", "Answers to /score.", ["model", "status"], registry=registry
        )
        self._images = prometheus.Counter(
            "vtadl_images", "Images by decision.", ["model", "decision"], registry=registry
        )
        self._refused = prometheus.Counter(
            "vtadl_images_refused", "Images without a score.", ["status"], registry=registry
        )
        self._seconds = prometheus.Histogram(
            "vtadl_request_seconds",
            "From the first byte of a request to its answer.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._steps = prometheus.Histogram(
            "vtadl_step_seconds",
            "Of one image: decode, wait for a batch, score.",
            ["step"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._batches = prometheus.Histogram(
            "vtadl_batch_images",
            "Images scored together.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self._drift = prometheus.Counter(
            "vtadl_drift_alarms",
            "Quantities that changed.",
            ["model", "quantity"],
            registry=registry,
        )
        self._ready = prometheus.Gauge("vtadl_ready", "1 if ready.", registry=registry)
        self._queue = prometheus.Gauge(
            "vtadl_queue_images", "Images received and not answered.", registry=registry
        )

    def batch(self, size: int) -> None:
        """Counts a batch of that many images."""
        self._batches.observe(size)

    def drift(self, model: str, quantity: str) -> None:
        """Counts an alarm of a quantity that changed."""
        self._drift.labels(model, quantity).inc()

    def image(self, model: str, decision: str, scored: Scored) -> None:
        """Counts an image that was scored."""
        self._images.labels(model, decision).inc()
        for step in ("decode", "wait", "score"):
            self._steps.labels(step).observe(getattr(scored, step))

    def refused(self, status: int) -> None:
        """Counts an image that got no score."""
        self._refused.labels(str(status)).inc()

    def request(self, model: str, status: int, seconds: float) -> None:
        """Counts an answer to /score; model: '' if there is none of that name."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.observe(seconds)

    def text(self, ready: bool, queued: int) -> bytes:
        """Returns all figures as text."""
        self._ready.set(ready)
        self._queue.set(queued)
        return prometheus.generate_latest(self._registry)

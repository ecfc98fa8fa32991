"""What Prometheus asks both programs for (``/metrics``, text format by prometheus_client).

Loaded only where diagnostics are served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

import mezite
from mezite.metering import BOUNDS_S, RequestMeter


def exposition(metrics: Iterable[Metric]) -> bytes:
    """*metrics*, with those of the process and the version."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Given([*metrics, InfoMetricFamily("mezite", "The version.",
                                                         {"version": mezite.__version__})]))
    text: bytes = generate_latest(registry)
    return text


class _Given:
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's name for it."""
        return iter(self._metrics)


def requests(
    meter: RequestMeter, name: str, whose: str, known: Iterable[tuple[str, str]] = ()
) -> Iterator[Metric]:
    """What *meter* has counted, as *name* + ``s`` and *name* + ``_seconds``.

    *known* methods and outcomes are there from the start, as 0: Prometheus sees
    no increase where a counter begins with 1.
    """
    outcomes = CounterMetricFamily(
        f"{name}s", f"{whose}, by method and outcome (ok, or the code of what went wrong).",
        labels=("method", "outcome"),
    )
    totals = dict.fromkeys(known, 0) | meter.outcomes
    for (method, outcome), count in sorted(totals.items()):
        outcomes.add_metric((method, outcome), count)
    yield outcomes
    seconds = HistogramMetricFamily(f"{name}_seconds", f"How long they took: {whose}.", labels=("method",))
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    for method, counts in sorted(meter.buckets.items()):
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        seconds.add_metric((method,), buckets, sum_value=meter.seconds[method])
    yield seconds


def gauge(name: str, about: str, value: float | None) -> Iterator[Metric]:
    """Nothing where *value* is not known."""
    if value is not None:
        yield GaugeMetricFamily(name, about, value=value)

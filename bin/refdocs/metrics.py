"""What both programs tell Prometheus, collected from the collectors themselves."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mezite.metering import RequestMeter
from mezite.storage.transaction import COUNTED
from refdocs.markdown import NOTE, cell, code, table


class Anything:
    """Stands for what a collector looks at: each part of it is there, and is 1 where a number is needed."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Anything()

    def __getitem__(self, key: Any) -> Any:
        return Anything()

    def __iter__(self) -> Any:
        return iter(())

    def __float__(self) -> float:
        return 1.0

    def __sub__(self, other: Any) -> float:
        return 1.0

    __rsub__ = __add__ = __radd__ = __truediv__ = __mul__ = __sub__

    def __ge__(self, other: Any) -> bool:
        return True

    __le__ = __gt__ = __lt__ = __ge__


def _meter() -> RequestMeter:
    meter = RequestMeter()
    meter.note("renew", "ok", 0.01)
    return meter


def server() -> bytes:
    from mezite import metrics
    from mezite.server_metrics import Rows, ServerMetrics

    machines = Anything(meter=_meter(), waiting=1, is_serving=True)
    collector: Any = ServerMetrics(Anything(), machines, Anything())  # type: ignore[arg-type]
    rows = Rows(dict.fromkeys(COUNTED, 1), 1)
    return metrics.exposition(collector._metrics(True, rows))


def daemon() -> bytes:
    from mezite import daemon_metrics

    status: Any = Anything()
    return daemon_metrics.collect(Anything(meter=_meter(), status=lambda: status))  # type: ignore[arg-type]


def _table(text: bytes) -> str:
    rows = []
    for family in text_string_to_metric_families(text.decode()):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = family.name if family.name.endswith(suffix) else family.name + suffix
        about = family.documentation
        if family.name.startswith("process_"):
            about = f"{about.rstrip('.')}: of the process that answers."
        rows.append((code(name), family.type, ", ".join(map(code, labels)), cell(about)))
    return table(("metric", "type", "labels", "what"), sorted(rows))


def page() -> str:
    return NOTE + (
        "# Metrics\n\nIn Prometheus' text format at `/metrics`: of the server where `diag.listen_addr` is "
        "set, of the daemon with `--diag-addr`. Alert rules: [alerts.yaml](../prometheus/alerts.yaml).\n\n"
        "## The auth server\n\n" + _table(server()) + "## The daemon\n\n" + _table(daemon())
    )

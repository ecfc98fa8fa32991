"""The daemon's ``/metrics``: what docs/monitoring.md lists."""

from __future__ import annotations

from prometheus_client.core import InfoMetricFamily

from mezite import metrics
from mezite.identity.service import IdentityService


def collect(service: IdentityService) -> bytes:
    status = service.status()
    found = list(metrics.requests(service.meter, "mezite_identity_request", "Requests to the server"))
    skew, left = status["clock_skew_seconds"], status["seconds_left"]
    for name, about, value in (
        ("ready", "What /readyz says: a valid certificate, and it will be renewed.", status["ready"]),
        ("seconds_to_expiry", "Until the certificate ends; negative afterwards.", left),
        ("generation", "Of the identity that is held.", status["generation"]),
        ("hooks_failing", "Outputs whose on-renew commands have failed last.",
         sum(one["hook_failure"] is not None for one in status["destinations"])),
        ("failures_in_a_row", "Renewals that have failed since the last one that did not.",
         service.state.failures),
        ("clock_skew_seconds", "The server's clock ahead of this machine's.", skew),
    ):
        found += metrics.gauge(f"mezite_identity_{name}", about, value)
    if status["bot"] is not None:
        # Not `instance`: Prometheus calls what it scrapes so.
        found.append(InfoMetricFamily("mezite_identity", "Whose it is.", {
            "bot": status["bot"], "cluster": status["cluster"], "instance_id": status["instance"],
        }))
    return metrics.exposition(found)

"""Fleets: simulated on a clock (`bin/simulate`), and real under faults (`bin/soak`)."""

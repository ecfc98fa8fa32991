"""Files, environment and flags → one frozen record per program; the only home of defaults."""

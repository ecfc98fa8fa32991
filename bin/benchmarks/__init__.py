"""What `bin/bench` measures; docs/performance.md says how."""

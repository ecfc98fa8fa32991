"""The use cases: plain synchronous functions of a transaction."""

"""The gRPC edge: what machines speak."""

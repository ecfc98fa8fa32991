"""Faults from outside: a proxy, a library that ends or fails a process at a chosen call, set clocks."""

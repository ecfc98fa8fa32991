"""The reference pages, made from the code (bin/reference)."""

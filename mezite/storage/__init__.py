"""The database: what all other code knows of it is ``interface``."""

"""Mezite: machine identity for SSH.

An auth server with its own certificate authorities hands short-lived OpenSSH
certificates to machines; a daemon on each machine joins once with a one-time
token and renews by itself from then on.  ``docs/architecture.md`` says where
everything is.
"""

__version__ = "0.1.0"

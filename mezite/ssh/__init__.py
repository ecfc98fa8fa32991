"""The SSH node: Conch, taught to take and to show OpenSSH certificates."""

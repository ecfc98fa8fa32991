"""An ssh-agent that holds one certificate and its key, and signs logins with it, nothing else."""

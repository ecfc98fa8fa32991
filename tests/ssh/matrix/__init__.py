"""The same logins before OpenSSH's sshd and our node: cases, the two servers, and a raw client."""

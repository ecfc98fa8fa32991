"""Keys, certificates, signing and verifying: CPU only, no files."""

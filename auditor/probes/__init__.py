"""Base classes of probes."""

"""Check that probes and plugin packages keep the rules."""

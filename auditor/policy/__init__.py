"""Judge findings by thresholds."""

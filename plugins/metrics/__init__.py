"""Robustness as numbers: distances and bounds over all attacks."""

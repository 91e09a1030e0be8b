"""Model formats, data sources and report formats."""

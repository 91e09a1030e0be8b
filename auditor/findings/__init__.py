"""What a reviewer reads: metrics, findings, evidence, and how numbers are written."""

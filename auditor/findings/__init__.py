"""Metrics, findings, evidence and their text form."""

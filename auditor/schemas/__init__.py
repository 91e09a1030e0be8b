"""JSON Schemas of the files that the auditor reads and writes."""

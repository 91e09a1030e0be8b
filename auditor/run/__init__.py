"""One audit from beginning to end."""

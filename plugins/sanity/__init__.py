"""Checks of the audit itself: whether its other numbers may be believed."""

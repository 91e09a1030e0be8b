"""Checks of the audit itself: whether its other results are reliable."""

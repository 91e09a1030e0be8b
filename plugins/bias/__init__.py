"""Whom the model fails: accuracy by group and by class."""

"""Shared parts of the recipes: settings, images and their splits, the trainer, networks, constraints, export."""

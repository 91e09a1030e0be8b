"""Adversarial attacks and random perturbations, one file per probe."""

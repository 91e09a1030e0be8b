"""Perturbations that look for wrong answers, by an adversary or by chance, one file per probe."""

"""Bias: accuracy, robustness and errors by group and by class."""

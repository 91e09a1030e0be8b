"""The classifier: the deployed model, its differentiable copy and its preprocessing."""

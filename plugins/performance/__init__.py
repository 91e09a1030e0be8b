"""Accuracy on clean images and calibration of the confidence."""

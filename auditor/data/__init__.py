"""Labelled images and tables: reading, resizing, sampling, matching labels to classes."""

"""Explanations of single predictions, and their faithfulness."""

"""How good the model is on clean images, and how honest its confidence."""

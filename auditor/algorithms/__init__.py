"""Attack searches, corruptions, bounds and other numerical methods that probes build on."""

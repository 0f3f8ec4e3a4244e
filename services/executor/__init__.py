"""Orders, fills and positions at the venue."""

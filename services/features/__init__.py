"""Features of the roster's pairs at every trade close."""

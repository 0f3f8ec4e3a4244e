"""Processes: thin async shells around the pure functions of `shared`."""

"""Families of strategy, each a folder of pure functions under the same names."""

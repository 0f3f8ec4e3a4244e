"""Entries and exits from features and the champion model."""

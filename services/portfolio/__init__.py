"""Intents from signals, within the limits."""

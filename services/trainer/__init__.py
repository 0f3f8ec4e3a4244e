"""Datasets, models, gates and promotions."""

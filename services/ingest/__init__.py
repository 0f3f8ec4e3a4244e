"""Bars of a venue or of a recording, checked, into the record and onto the bus."""

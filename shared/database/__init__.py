"""The record: engine, tables and migrations."""

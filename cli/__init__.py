"""The `mnt` command."""

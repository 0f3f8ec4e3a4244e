"""`mnt cycle`: from recorded bars to a verdict on a candidate, offline."""

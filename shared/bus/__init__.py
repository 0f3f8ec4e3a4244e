"""The event log: gapless, transactional, read by cursors that move with the effect."""

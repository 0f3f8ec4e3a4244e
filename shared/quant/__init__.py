"""Pure numbers: arrays in, arrays or frozen results out."""

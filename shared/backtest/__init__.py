"""The pure parts run over recorded bars with the same fill kernel as the paper venue."""

"""Research on files: each step reads artefacts, writes one and says what it was made from."""

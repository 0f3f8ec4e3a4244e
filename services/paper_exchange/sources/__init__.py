"""Where the market of the venue comes from, and what moves it."""

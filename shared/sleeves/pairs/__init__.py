"""The pairs sleeve: mean reversion of the spread of two cointegrated symbols."""

"""A simulated Binance USD-M futures venue over recorded bars."""

"""A simulated Binance, spot and USD-M futures, over simulated, recorded or live prices."""

"""The roster of tradable pairs from the bars of the screen timeframe."""

"""The vocabulary of the bus: frozen, versioned events, one module per publisher."""

"""Pure accounting in exact integers: instruments, orders, positions, fills."""

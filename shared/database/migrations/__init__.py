"""The steps by which the schema came to be; their sum equals `shared.database.tables`."""

"""Detection engines: adapters around libraries that may not be there."""

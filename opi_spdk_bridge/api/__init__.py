"""Northbound: the contract's services, bound from their descriptors to the engine."""

"""The engine: what is the same for every kind of resource. It knows neither SPDK nor the contract's messages."""

"""One small module a kind of resource: how it looks on SPDK."""

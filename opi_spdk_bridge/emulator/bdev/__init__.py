"""The block device layer and its modules."""

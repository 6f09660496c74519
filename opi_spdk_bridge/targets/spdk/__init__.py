"""Plain SPDK: a module a kind, named like it, with the steps from what is on the target to what is asked."""

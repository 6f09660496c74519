"""SPDK's JSON-RPC: the pipelined client, typed methods, release differences, views of the target."""

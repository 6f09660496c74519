"""The command line: what a person types, and the client behind it."""

"""Flows of real clients, and the command line."""

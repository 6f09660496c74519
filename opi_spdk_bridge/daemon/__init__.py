"""The daemon: its settings, and its parts put together, started in order and stopped in reverse."""

"""What the program tells of itself: logs, traces, and the one interface through which parts report what happens."""

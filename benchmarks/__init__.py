"""How fast and how big: `python -m benchmarks` (make bench) measures the bridge and prints a table.

Emulator, bridge, bare gRPC server and load client are processes of their own. What is compared is measured in turns
within the same seconds, because the machine is never quiet.
"""

"""How long tests wait for what should come."""

from __future__ import annotations

PATIENCE_S = 120.0
"""The limit of every wait that only a failure outlasts: far above what the slowest machine needs, so that no test says
how fast a machine is."""
HOUR_S = 3600.0
"""A time that does not pass during a test; a `Clock` can be moved on by it."""

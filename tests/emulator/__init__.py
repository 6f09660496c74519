"""Tests of the emulated target, as a process behind a real socket wherever that matters."""

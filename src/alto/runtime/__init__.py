"""Runtimes: they carry events to the core and perform its actions."""

"""Worlds of replicas that break, stall, refuse and lie, on virtual time and drawn by a seed."""

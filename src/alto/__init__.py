"""ALTO."""

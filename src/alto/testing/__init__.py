"""Test a pipeline without waiting: virtual time, seeded worlds, checkers."""

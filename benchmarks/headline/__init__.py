"""The headline experiment: how much load at the same latency, against systems without streaming."""

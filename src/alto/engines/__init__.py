"""LM engines: what a configuration names (`EngineSpec`) and what answers calls (`Engine`)."""

"""LM engines: what is written in a configuration (`EngineSpec`) and what answers calls (`Engine`)."""

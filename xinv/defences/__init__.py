"""Defences: what a service may do to an observation before it is released.."""

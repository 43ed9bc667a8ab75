"""Doubles that tests of more than one part need."""

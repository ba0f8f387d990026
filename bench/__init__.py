"""Measurements and fault injection: programs that print JSON."""

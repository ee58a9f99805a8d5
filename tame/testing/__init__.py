"""Test environments for tamed programs: virtual time, and a simulated network and disk."""

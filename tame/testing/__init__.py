"""Worlds to test a tamed program in: virtual time, a network and a disk in memory."""

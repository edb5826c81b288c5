"""Servers that a launcher starts on the nodes of a job: read from its list, and followed."""

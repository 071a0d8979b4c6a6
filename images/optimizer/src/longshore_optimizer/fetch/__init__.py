"""Brings bytes from an untrusted place onto the local disk: bounded, hashed while they stream, verified."""

"""Triton as a runtime, measured."""

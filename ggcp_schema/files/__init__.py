"""Bytes on disk: input files, output files, and recognising formats by their first bytes."""

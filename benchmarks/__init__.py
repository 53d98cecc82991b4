"""Measurements, printed as tables: ``./run bench``. They judge nothing; what is slow here may be a busy machine."""

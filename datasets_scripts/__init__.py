"""SELD data sets as `datasets` builders, one module each, their 10-s segments, and the scene synthesiser."""

"""SELD data sets as `datasets` builders (one module each), windows of their recordings, and the scene synthesiser."""

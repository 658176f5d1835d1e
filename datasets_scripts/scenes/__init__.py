"""The synthesiser: labelled scenes made from isolated sounds in simulated or measured rooms."""

"""The synthesiser: labelled scenes of isolated sounds in simulated or measured rooms."""

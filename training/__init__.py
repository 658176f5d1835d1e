"""Training and scoring of PSELDNets."""

"""What made the figures of the README and the model that comes with the package."""

"""The experiments behind the figures in the README and the model that comes with the package."""

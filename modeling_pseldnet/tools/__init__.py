"""Tools for models and events that are not uploaded with a model, unlike the modules beside this folder."""

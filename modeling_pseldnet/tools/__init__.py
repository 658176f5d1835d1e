"""What works with models and events and stays at home, unlike the modules beside this folder, which travel."""

"""What people see and hear: a first run on the terminal."""

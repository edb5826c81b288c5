"""What people look at while a run is under way."""

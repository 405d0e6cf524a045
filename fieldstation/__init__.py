"""fieldstation: an always-on acoustic field station. Start with `station.py`."""

__version__ = "0.1.0"

"""Microphone, files, windows: whatever is heard becomes AudioChunks, then Windows."""

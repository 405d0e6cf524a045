"""Recordings, images, and their splits. Licences travel with the data."""

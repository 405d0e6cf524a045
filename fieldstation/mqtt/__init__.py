"""The wire: messages, the connection, publisher, logger and the broker at home."""

"""What is measured is tested, too."""

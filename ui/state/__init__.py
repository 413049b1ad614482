"""What the page remembers and does."""

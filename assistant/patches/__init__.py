"""What else the frozen tower's patches can do: find what differs from good pictures, parts, masks within boxes."""

"""What the device sees of ``forward``: operations, types, blocks and their placement."""

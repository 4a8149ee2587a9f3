"""What goes in and comes out: arguments, micro-batches, outputs, loaders."""

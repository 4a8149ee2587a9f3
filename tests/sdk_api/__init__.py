"""What PopTorch and PopDist offer, and what the application asks of them: read, and watched."""

"""Training application for G16-EfficientNet on IPUs, and the IPU Model that stands in for them."""

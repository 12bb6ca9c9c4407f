"""What there is to measure and with what: models, weights, images, plugins, seeds."""

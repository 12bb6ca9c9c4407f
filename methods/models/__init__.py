"""What is known of stock timm models: where attention, layers and residual streams are."""

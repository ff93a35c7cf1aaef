"""What a MONAI bundle names: the network, the inferer, data, losses, metrics and handlers."""

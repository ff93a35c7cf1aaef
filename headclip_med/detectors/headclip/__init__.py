"""HeadCLIP (arXiv 2505.22259): head weights, class features and a joint anomaly score."""

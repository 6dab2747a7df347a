"""What claims share: a network as a sum of its blocks, estimates, results, figures, options."""

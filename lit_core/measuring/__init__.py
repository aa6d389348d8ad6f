"""What is measured of a network: accuracy, cost, and the scores of generators."""

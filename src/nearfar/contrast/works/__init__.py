"""What is measured of a queue while nothing goes wrong; and, beside it in `faults`, what a fault costs."""

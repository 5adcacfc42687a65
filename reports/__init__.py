"""Tables, figures and pages from finished runs, beside the numbers that the papers report."""

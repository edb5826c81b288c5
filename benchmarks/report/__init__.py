"""What is made of the findings: lines, a page of the documentation, a chart."""

"""What is drawn: trade-offs, costs and curves, as SVG, PNG and PDF; the same records give the same bytes."""

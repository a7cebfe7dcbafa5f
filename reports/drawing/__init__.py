"""Charts: Vega-Lite specifications, drawn as SVG, and answering in the page."""

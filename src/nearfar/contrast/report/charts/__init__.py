"""Charts as SVG: lying bars, and curves of percentiles. `sheet` keeps every text's place, so that tests can
see overlaps."""

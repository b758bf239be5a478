"""From outcomes to what is shown: `build` makes a `Report` of plain data, `terminal` and `page` write it
down. Pure."""

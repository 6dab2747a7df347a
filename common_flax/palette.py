"""Colours of all figures: Okabe and Ito's, which colour-blind readers can tell apart.

Their yellow is left out: it is too light for a line on white.
"""

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
AMBER, SKY, BLACK = "#e69f00", "#56b4e9", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK)

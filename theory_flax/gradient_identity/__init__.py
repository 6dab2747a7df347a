"""The gradient of a stage's input is that of its output plus one term a block (He 2016, equation 5)."""

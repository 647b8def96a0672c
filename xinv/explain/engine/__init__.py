"""The explanation engine: a model as a list of equations, walked backward by rules.

| file | what |
|---|---|
| `graph.py` | any JAX function as a flat list of equations |
| `primitives.py` | what kinds of primitives there are |
| `roles.py` | what equations mean together: ReLUs, normalisations, gates, softmaxes |
| `layers.py` | products with weights, with their biases and BatchNorms, as one equation |
| `layout.py` | where rows and columns of the image are |
| `cut.py` | a model opened at one tensor |
| `backward.py` | the walk backward |
| `lrp_rules.py`, `pooling.py` | rules of LRP, of pooling |
| `memory.py` | how much fits in memory at once |
"""

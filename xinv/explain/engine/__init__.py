"""The explanation engine: a model as a list of equations, walked backward by rules.

| file | content |
|---|---|
| `graph.py` | any JAX function as a flat list of equations |
| `primitives.py` | kinds of primitives |
| `roles.py` | roles of values: scales of normalisations, gates, softmaxes |
| `layers.py` | products with weights, with their biases and BatchNorms, as one equation |
| `layout.py` | rows and columns of the image in each value |
| `cut.py` | a model opened at one tensor |
| `backward.py` | the walk backward |
| `lrp_rules.py`, `pooling.py` | rules of LRP, of pooling |
| `memory.py` | size of the batches and chunks that fit in memory |
"""

"""The weights of any framework: a list of arrays, and the form to put them back.

Variables of Equinox and NNX hold functions, numbers and keys besides; only arrays can be stored,
and passed to compiled functions.
"""

import hashlib
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.types import Variables


class Form(NamedTuple):
    """The form of the user's variables, of which only the arrays are passed to functions.

    Attributes:
      treedef: their structure.
      names: of the leaves.
      arrays: per leaf its type and shape, such as "float32[3, 4]"; "" if it is no array.
      rest: the other leaves; None for each array.
    """

    treedef: Any
    names: tuple[str, ...]
    arrays: tuple[str, ...]
    rest: list

    def whole(self, arrays: list) -> Variables:
        """Returns the user's variables with these arrays."""
        # In the order of the leaves
        given = iter(arrays)
        leaves = []
        for leaf, is_array in zip(self.rest, self.arrays, strict=True):
            leaves.append(next(given) if is_array else leaf)
        return jax.tree.unflatten(self.treedef, leaves)

    def difference(self, other: "Form") -> str:
        """Returns the first leaf by which another form differs; "" if its arrays fit here.

        Names tell, not the structures: these hold tags of NNX, and functions and markers of
        Equinox, that differ from one model to the next.
        """
        mine = zip(self.names, self.arrays, strict=True)
        others = zip(other.names, other.arrays, strict=True)
        for one, another in itertools.zip_longest(mine, others, fillvalue=("no leaf", "")):
            if one != another:
                return f"{_leaf(*another)} instead of {_leaf(*one)}"
        return ""


def split(variables: Variables) -> tuple[list[np.ndarray], Form]:
    """Returns the arrays among the leaves of variables, and their form."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(variables)
    arrays = []
    names = []
    kinds = []
    rest = []
    for path, leaf in leaves:
        names.append(jax.tree_util.keystr(path))
        # Functions and markers stay in the form, so that arrays alone are compared and stored
        if _is_array(leaf):
            arrays.append(np.asarray(leaf))
            kinds.append(f"{leaf.dtype}{list(leaf.shape)}")
            rest.append(None)
        else:
            kinds.append("")
            rest.append(leaf)
    return arrays, Form(treedef, tuple(names), tuple(kinds), rest)


def _leaf(name: str, array: str) -> str:
    return f"{array} {name}".strip()


def is_finite(arrays: list[np.ndarray]) -> bool:
    """Tells if no array holds NaN or infinite values."""
    for array in arrays:
        # NumPy knows bfloat16 only by its conversion
        floating = jnp.issubdtype(array.dtype, jnp.inexact)
        if floating and not np.isfinite(array.astype(np.float32)).all():
            return False
    return True


def fingerprint(path: str, arrays: list[np.ndarray]) -> str:
    """Returns the hash of the weights that the function at `path` loads."""
    # Weights of the same values and other shapes are another model
    digest = hashlib.sha256(path.encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _is_array(leaf: Any) -> bool:
    # Random keys are arrays to JAX, and cannot be stored as such
    if isinstance(leaf, np.ndarray):
        return True
    return isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

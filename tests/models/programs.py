"""What a traced or compiled program holds."""

import numpy as np


def products(jaxpr):
    """Of every matrix product in a program: its sides `(m, n, k)` for one entry of the batch, and its multiply-adds."""
    for equation in jaxpr.eqns:
        # Of forms by platform, the one for all others.
        platforms = equation.params.get("branches_platforms")
        branches = () if platforms is None else [equation.params["branches"][platforms.index(None)]]
        for value in (*equation.params.values(), *branches):
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from products(getattr(inner, "jaxpr", inner))
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            left, right = (variable.aval for variable in equation.invars)
            depth = int(np.prod([left.shape[axis] for axis in contracted], dtype=int))
            batch = int(np.prod([left.shape[axis] for axis in batched], dtype=int))
            sides = (left.size // depth // batch, right.size // depth // batch, depth)
            yield sides, batch * int(np.prod(sides, dtype=int))
        elif equation.primitive.name == "conv_general_dilated":
            height, width, channels, _ = equation.invars[1].aval.shape
            depth, out = height * width * channels, equation.outvars[0].aval
            yield (out.size // out.shape[-1], out.shape[-1], depth), out.size * depth
